"""The groups of users in the form with the gateway; it replaces consumers.py."""

from django.contrib.auth.signals import user_logged_in
from django.dispatch import receiver
from ws4redis import groups


@receiver(user_logged_in)
def join_chats(user, **kwargs):
    groups.add(user, *(f"chat_{pk}" for pk in user.chats.values_list("pk", flat=True)))


def membership_changed(user, chat, joined):
    change = groups.add if joined else groups.discard
    change(user, f"chat_{chat}")
