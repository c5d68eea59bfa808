"""`manage.py ws4redis_refresh`: writes the users' keys anew, after changes of which Django sent no signal."""

from __future__ import annotations

from argparse import ArgumentParser
from typing import Any

from django.contrib.auth import get_user_model
from django.core.management.base import BaseCommand, CommandError

from ws4redis import identity


class Command(BaseCommand):
    """Writes the keys of the named users, or of all."""

    help = "Tells the gateway about users as they are now: after QuerySet.update(), SQL, or a Redis that was gone."

    def add_arguments(self, parser: ArgumentParser) -> None:
        """Takes names, or --all."""
        parser.add_argument("usernames", nargs="*", metavar="USERNAME")
        parser.add_argument("--all", action="store_true", help="all users")

    def handle(self, *args: Any, **options: Any) -> None:
        """Writes the keys."""
        model = get_user_model()
        users = model._base_manager.using(identity.database())
        names = options["usernames"]
        if bool(names) == options["all"]:
            raise CommandError("name the users, or say --all")
        if names:
            found = list(users.filter(**{f"{model.USERNAME_FIELD}__in": names}))
            missing = sorted(set(names) - {str(user.get_username()) for user in found})
            if missing:
                raise CommandError(f"there is no user {', '.join(missing)}")
            changed = identity.refresh(*found, force=True)
        else:
            # Those who have a key and are in the database no more come last.
            pks = {identity.pk_of(user): None for user in users.order_by("pk").iterator(chunk_size=500)}
            pks.update(dict.fromkeys(identity.pks_with_key()))
            changed = identity.refresh(*pks)
        self.stdout.write(f"{changed} users have changed")
