"""`manage.py ws4redis`: run the gateway with the settings of this site."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING

from django.core.management.base import BaseCommand, CommandError

from ws4redis import binary, gateway_settings

if TYPE_CHECKING:
    from argparse import ArgumentParser


class Command(BaseCommand):
    """Replace this process by the gateway, so that signals and exit codes are the gateway's."""

    help = (
        "Run the ws4redis gateway with everything that Django's settings determine. Precedence, lowest first: these, "
        "WS4REDIS_GATEWAY, variables such as WS4REDIS_SERVER__LISTEN, --set."
    )

    def add_arguments(self, parser: ArgumentParser) -> None:
        """Add the options."""
        parser.add_argument(
            "action",
            nargs="?",
            choices=["serve", "check"],
            default="serve",
            help="check: validate the settings, test the connection to Redis, and exit (default: serve)",
        )
        parser.add_argument(
            "--listen",
            metavar="ADDRESS",
            help="host:port or unix:/path (default: 127.0.0.1:8000, or server.listen of WS4REDIS_GATEWAY)",
        )
        parser.add_argument(
            "--set",
            action="append",
            default=[],
            metavar="KEY=VALUE",
            dest="assignments",
            help="a setting of the gateway; may be repeated",
        )

    # Django passes its own options as well, hence **options.
    def handle(
        self, *args: object, action: str, listen: str | None, assignments: list[str], **options: object
    ) -> None:
        """Run the gateway in place of this process.

        Raises:
            CommandError: There is no binary, or a setting of Django is unusable.
        """
        try:
            path = binary.find()
            derived = gateway_settings.derive()
            pipe = binary.settings_pipe(derived.as_toml(secrets=True))
        except (binary.BinaryNotFound, ValueError) as error:
            raise CommandError(str(error)) from error
        for note in derived.notes:
            self.stderr.write(self.style.WARNING(note))
        os.set_inheritable(pipe, True)
        command = [str(path), "--settings", f"/dev/fd/{pipe}"]
        for assignment in [*([f"server.listen={listen}"] if listen else []), *assignments]:
            command += ["--set", assignment]
        sys.stdout.flush()
        sys.stderr.flush()
        try:
            os.execv(path, [*command, action])
        except OSError as error:
            os.close(pipe)
            raise CommandError(f"{path} does not run here: {error}") from error
