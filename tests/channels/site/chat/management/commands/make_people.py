from chat.models import Chat
from django.contrib.auth import get_user_model
from django.core.management.base import BaseCommand

MEMBERS = {"kitchen": ["john", "mary"], "garden": ["john"]}


class Command(BaseCommand):
    help = "Create the users john and mary with the password secret, and two chats."

    def handle(self, **options):
        create = get_user_model().objects.create_user
        people = {name: create(name, password="secret") for name in ("john", "mary")}
        for name, members in MEMBERS.items():
            Chat.objects.create(name=name).members.set([people[member] for member in members])
