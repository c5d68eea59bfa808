"""`manage.py ws4redis_refresh`: rewrite the keys of users after changes for which Django sent no signal."""

from __future__ import annotations

from typing import TYPE_CHECKING

from django.contrib.auth import get_user_model
from django.core.management.base import BaseCommand, CommandError

from ws4redis import identity

if TYPE_CHECKING:
    from argparse import ArgumentParser


class Command(BaseCommand):
    """Rewrite the keys of the named users, or of all, and inform the gateway."""

    help = "Inform the gateway about changed users after QuerySet.update(), SQL, or a failure of Redis."

    def add_arguments(self, parser: ArgumentParser) -> None:
        """Add the usernames and `--all`."""
        parser.add_argument("usernames", nargs="*", metavar="USERNAME")
        parser.add_argument("--all", action="store_true", help="refresh all users")

    # Django passes its own options as well, hence **options; `all` cannot be a parameter without hiding the builtin.
    def handle(self, *args: object, usernames: list[str], **options: object) -> None:
        """Rewrite the keys.

        Raises:
            CommandError: Neither users nor `--all` were given, or both, or a user does not exist.
            redis.RedisError: Redis is unreachable or refuses a command.
        """
        model = get_user_model()
        users = model._base_manager.using(identity.database())
        if bool(usernames) == options["all"]:
            raise CommandError("neither users nor --all given, or both; name the users or pass --all")
        if usernames:
            found = list(users.filter(**{f"{model.USERNAME_FIELD}__in": usernames}))
            missing = sorted(set(usernames) - {str(user.get_username()) for user in found})
            if missing:
                raise CommandError(f"there is no user {', '.join(missing)}")
            changed = identity.refresh(*found, force=True)
        else:
            # Users with a key but without a row, which get a tombstone, come last.
            pks = {identity.pk_of(user): None for user in users.order_by("pk").iterator(chunk_size=500)}
            pks.update(dict.fromkeys(identity.pks_with_key()))
            changed = identity.refresh(*pks)
        self.stdout.write(f"{changed} users changed")
