"""`manage.py ws4redis_settings`: print a settings file for the gateway of this site."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from django.conf import settings as django_settings
from django.core.management.base import BaseCommand, CommandError

from ws4redis import gateway_settings

if TYPE_CHECKING:
    from argparse import ArgumentParser


class Command(BaseCommand):
    """Print the settings as TOML, without secrets; or write a file that only its owner reads, with them."""

    help = "Print a settings file (TOML) for the ws4redis gateway, with everything that Django's settings determine."

    def add_arguments(self, parser: ArgumentParser) -> None:
        """Add the options."""
        parser.add_argument(
            "--output",
            metavar="FILE",
            help="write a file with the secrets, which only its owner can read (mode 0600)",
        )
        parser.add_argument("--secrets", action="store_true", help="print secrets as well")

    # Django passes its own options as well, hence **options.
    def handle(self, *args: object, output: str | None, secrets: bool, **options: object) -> None:
        """Print or write the settings.

        Raises:
            CommandError: A setting of Django is unusable, or the file cannot be written.
        """
        try:
            derived = gateway_settings.derive()
        except ValueError as error:
            raise CommandError(str(error)) from error
        text = _HEAD.format(
            module=os.environ.get("DJANGO_SETTINGS_MODULE") or django_settings.SETTINGS_MODULE
        )
        text += "".join(f"# {note}.\n" for note in derived.notes)
        text += f"\n{derived.as_toml(secrets=secrets or output is not None)}"
        if output is None:
            self.stdout.write(text, ending="")
            return
        try:
            _write(Path(output), text)
        except OSError as error:
            raise CommandError(f"{output} cannot be written: {error.strerror}") from error
        self.stdout.write(
            f"{output} is written; only its owner can read it. Start: ws4redis --settings {output}"
        )


_HEAD = """\
# Settings of the ws4redis gateway, derived from {module} by `manage.py ws4redis_settings`.
# Derive them again after a change of Django's settings. Set others, such as rules, in WS4REDIS_GATEWAY: `--output` replaces
# the file. `ws4redis generate-settings` prints all settings, and their defaults.
"""


def _write(path: Path, text: str) -> None:
    unfinished = path.with_name(f"{path.name}.new")
    unfinished.unlink(missing_ok=True)
    # Created with this mode: a later change would leave a moment in which others read it.
    descriptor = os.open(unfinished, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(text)
        os.replace(unfinished, path)
    except BaseException:
        # It has the secrets.
        unfinished.unlink(missing_ok=True)
        raise
