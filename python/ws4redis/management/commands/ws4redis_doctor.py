"""`manage.py ws4redis_doctor`: says what does not match between Django, Redis and the gateway."""

from __future__ import annotations

from argparse import ArgumentParser
from typing import Any

from django.core.management.base import BaseCommand, CommandError

from ws4redis.doctor import ERROR, OK, WARNING, Doctor


class Command(BaseCommand):
    """Prints a line for each finding, and what the gateway has to be set to; ends with 1 if something is wrong."""

    help = "Says what does not match between Django, Redis and the running ws4redis gateway."
    # The doctor runs the ones of this package itself, and goes on after them.
    requires_system_checks: list[str] = []

    def add_arguments(self, parser: ArgumentParser) -> None:
        """Takes the time that gateways have to answer."""
        parser.add_argument("--wait", type=float, default=2.0, metavar="SECONDS", help="time for answers (2)")

    def handle(self, *args: Any, **options: Any) -> None:
        """Examines and reports."""
        doctor = Doctor(options["wait"])
        styles = {OK: self.style.SUCCESS, WARNING: self.style.WARNING, ERROR: self.style.ERROR}
        errors = 0
        for finding in doctor.examine():
            errors += finding.level == ERROR
            self.stdout.write(f"{styles[finding.level](finding.level):>7}  {finding.text}")
        self.stdout.write("\nWhat the gateway has to be set to:")
        for name, value in doctor.needed().items():
            self.stdout.write(f"  {name}: {value or '(empty)'}")
        if errors:
            raise CommandError("1 error found" if errors == 1 else f"{errors} errors found")
