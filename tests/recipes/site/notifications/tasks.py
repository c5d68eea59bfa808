from celery import shared_task
from django.contrib.auth import get_user_model


@shared_task
def export(user_pk):
    user = get_user_model().objects.get(pk=user_pk)
    user.notifications.create(text="Your export is ready")
