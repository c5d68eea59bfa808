"""What replaces consumers.py in the form with the gateway: the groups of users. group_send costs less here, too."""

from django.contrib.auth.signals import user_logged_in
from django.dispatch import receiver
from ws4redis import groups
from ws4redis.channels import group_send


@receiver(user_logged_in)
def join_chats(user, **kwargs):
    groups.add(user, *(f"chat_{pk}" for pk in user.chats.values_list("pk", flat=True)))


def membership_changed(user, chat, joined):
    change = groups.add if joined else groups.discard
    change(user, f"chat_{chat}")


def announce(text):
    message = {"chat": None, "author": "site", "text": text}
    group_send("everybody", {"type": "new_message", "message": message})
