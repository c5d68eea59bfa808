from django.db.models.signals import post_delete, post_save
from django.dispatch import receiver
from ws4redis.html import datastar, oob, publish_html_on_commit, turbo_stream

from items.models import Item


def publish_table(facility, wrap):
    publish_html_on_commit(
        facility, "items/table.html", {"items": Item.objects.all()}, wrap=wrap, broadcast=True
    )


@receiver([post_save, post_delete], sender=Item)
def show_with_htmx(**kwargs):
    publish_table("items-htmx", oob("innerHTML:#table"))


@receiver([post_save, post_delete], sender=Item)
def show_with_turbo(**kwargs):
    publish_table("items-turbo", turbo_stream("replace", "items"))


@receiver([post_save, post_delete], sender=Item)
def show_with_datastar(**kwargs):
    publish_table("items-datastar", datastar())
