from chat.views import announce
from django.core.management.base import BaseCommand


class Command(BaseCommand):
    help = "Send a text to everybody, as a task does."

    def add_arguments(self, parser):
        parser.add_argument("text")

    def handle(self, text, **options):
        announce(text)
