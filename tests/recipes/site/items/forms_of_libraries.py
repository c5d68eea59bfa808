from django.db import transaction
from django.db.models.signals import post_delete, post_save
from django.dispatch import receiver
from ws4redis.html import (
    datastar,
    oob,
    publish_event,
    publish_html_on_commit,
    turbo_stream,
)

from items.models import Item


def publish_table(facility, **form):
    publish_html_on_commit(
        facility, "items/table.html", {"items": Item.objects.all()}, broadcast=True, **form
    )


@receiver([post_save, post_delete], sender=Item)
def show_with_htmx(**kwargs):
    publish_table("items-htmx", wrap=oob("innerHTML:#table"))


def show_count():
    publish_event("items-parts", "count", Item.objects.count(), expire=0, broadcast=True)


@receiver([post_save, post_delete], sender=Item)
def show_parts_with_htmx(**kwargs):
    publish_table("items-parts", event="table")
    transaction.on_commit(show_count)


@receiver([post_save, post_delete], sender=Item)
def show_with_turbo(**kwargs):
    publish_table("items-turbo", wrap=turbo_stream("replace", "items"))


@receiver([post_save, post_delete], sender=Item)
def show_with_datastar(**kwargs):
    publish_table("items-datastar", wrap=datastar())
