"""`manage.py ws4redis_doctor`: report mismatches between Django, Redis and the gateway."""

from __future__ import annotations

from typing import TYPE_CHECKING

from django.core.management.base import BaseCommand, CommandError

from ws4redis import handshake
from ws4redis.doctor import ERROR, OK, WARNING, Doctor

if TYPE_CHECKING:
    from argparse import ArgumentParser


class Command(BaseCommand):
    """Print a line per finding, and the settings that the gateway needs; exit with 1 after an error."""

    help = "Report mismatches between Django, Redis and the running ws4redis gateway."
    # The doctor runs the checks of this package itself, and continues after an error.
    requires_system_checks: list[str] = []

    def add_arguments(self, parser: ArgumentParser) -> None:
        """Add the options."""
        parser.add_argument(
            "--wait",
            type=float,
            default=2.0,
            metavar="SECONDS",
            help="time that gateways have to answer (default: 2)",
        )
        parser.add_argument(
            "--site",
            metavar="URL",
            help="address of the site as in a browser, such as https://www.example.com: opens a WebSocket there",
        )
        parser.add_argument(
            "--facility",
            metavar="NAME",
            default=handshake.FACILITY,
            help="facility of that WebSocket; one that the [[access]] rules admit",
        )

    # Django passes its own options as well, hence **options.
    def handle(
        self,
        *args: object,
        wait: float,
        site: str | None = None,
        facility: str = handshake.FACILITY,
        **options: object,
    ) -> None:
        """Examine and report.

        Raises:
            CommandError: At least one finding is an error.
        """
        doctor = Doctor(wait, site, facility)
        styles = {OK: self.style.SUCCESS, WARNING: self.style.WARNING, ERROR: self.style.ERROR}
        errors = 0
        for finding in doctor.examine():
            errors += finding.level == ERROR
            self.stdout.write(f"{styles[finding.level](finding.level):>7}  {finding.text}")
        self.stdout.write("\nSettings that the gateway needs, as its settings.toml:\n")
        self.stdout.write(doctor.settings_file(), ending="")
        if errors:
            raise CommandError("1 error found" if errors == 1 else f"{errors} errors found")
