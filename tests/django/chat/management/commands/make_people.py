"""`manage.py make_people`."""

from django.core.management.base import BaseCommand

from chat.people import make_people


class Command(BaseCommand):
    """Makes the users john, mary and admin (password `secret`) and their groups."""

    help = "Makes the users john, mary and admin (password: secret) and their groups."

    def handle(self, *args, **options):
        """Creates them, or resets them."""
        make_people()
