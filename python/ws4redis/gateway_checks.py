"""System checks of what `runserver` needs: the order of INSTALLED_APPS, and the settings of the gateway."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Final

from django.apps import apps
from django.conf import settings as django_settings
from django.core import checks
from django.core.management import find_commands

from ws4redis import settings
from ws4redis.checks import TAG

if TYPE_CHECKING:
    from collections.abc import Sequence

    from django.apps import AppConfig

# Their `runserver` chooses the server itself, with or without this package below. Channels had one before version 4.
ASGI_SERVERS: Final = ("daphne", "channels")
RUNSERVER: Final = "ws4redis.management.commands.runserver"


def register() -> None:
    """Register the checks with Django."""
    for check in (check_order, check_gateway_settings):
        checks.register(check, TAG)


# Django passes further keyword arguments to checks, and refuses checks without **kwargs.


def check_order(app_configs: Sequence[AppConfig] | None, **kwargs: object) -> list[checks.CheckMessage]:
    """Return a warning if another app's `runserver` hides the one of this package."""
    hiding = _hiding_app() if django_settings.DEBUG else None
    if hiding is None:
        return []
    hint = f"Move 'ws4redis' above {hiding!r}."
    if hiding in ASGI_SERVERS:
        hint = (
            f"Remove {hiding!r} if nothing else needs it, and let 'ws4redis' be above 'django.contrib.staticfiles'. Otherwise "
            "run manage.py ws4redis in a second terminal: the runserver of this app passes no connections to a gateway."
        )
    return [
        checks.Warning(
            f"ws4redis is below {hiding} in INSTALLED_APPS, so manage.py runserver serves no WebSockets.",
            hint=hint,
            id="ws4redis.W020",
        )
    ]


def _hiding_app() -> str | None:
    """Return the first app with a `runserver`, of which Django takes the command, unless that calls the one of this package."""
    for config in apps.get_app_configs():
        if config.name == "ws4redis":
            return None
        if "runserver" in find_commands(str(Path(config.path) / "management")):
            return None if _calls_package(config.name) else config.name
    return None


def _calls_package(app: str) -> bool:
    # Django's own does not, and Daphne's takes long to import.
    if app in (*ASGI_SERVERS, "django.contrib.staticfiles"):
        return False
    try:
        command = import_module(f"{app}.management.commands.runserver").Command
    except Exception:  # noqa: BLE001 - a module may raise anything; runserver shows it
        return True
    # WhiteNoise's derives from the command of the next app.
    return any(base.__module__ == RUNSERVER for base in command.__mro__)


def check_gateway_settings(
    app_configs: Sequence[AppConfig] | None, **kwargs: object
) -> list[checks.CheckMessage]:
    """Return the settings of the gateway and its binary that have a wrong type."""
    found: list[checks.CheckMessage] = []
    if not isinstance(settings.WS4REDIS_GATEWAY, dict):
        # No value, as it may contain secrets.
        found.append(
            checks.Error(
                f"WS4REDIS_GATEWAY is a {type(settings.WS4REDIS_GATEWAY).__name__}; it must be a dict, such as "
                "{'anonymous_publish': False}.",
                id="ws4redis.E020",
            )
        )
    binary = settings.WS4REDIS_BINARY
    if binary is not None and not hasattr(binary, "__fspath__") and not isinstance(binary, str):
        found.append(checks.Error(f"WS4REDIS_BINARY is {binary!r}; it must be a path.", id="ws4redis.E021"))
    return found
