from django.db.models.signals import post_delete, post_save
from django.dispatch import receiver
from ws4redis.html import publish_html_on_commit

from items.models import Item


@receiver([post_save, post_delete], sender=Item)
def show_table(**kwargs):
    publish_html_on_commit("items", "items/table.html", {"items": Item.objects.all()}, broadcast=True)
