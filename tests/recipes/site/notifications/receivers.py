from django.contrib.auth.signals import user_logged_in
from django.db import transaction
from django.db.models.signals import post_delete, post_save
from django.dispatch import receiver
from ws4redis.publisher import RedisPublisher

from notifications.models import Notification


def show_badge(user):
    unread = user.notifications.filter(is_read=False).count()
    RedisPublisher(facility="notifications", users=[user]).publish_json({"unread": unread})


@receiver([post_save, post_delete], sender=Notification)
def notification_changed(instance, **kwargs):
    # Counted at the commit, with what other transactions have committed meanwhile.
    transaction.on_commit(lambda: show_badge(instance.user))


# A signal that notifies.
@receiver(user_logged_in)
def report_login(user, **kwargs):
    user.notifications.create(text="You have logged in")
