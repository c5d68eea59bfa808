"""System checks of what `runserver` needs: the order of INSTALLED_APPS, and the settings of the gateway."""

from __future__ import annotations

from typing import TYPE_CHECKING

from django.apps import apps
from django.conf import settings as django_settings
from django.core import checks

from ws4redis import settings
from ws4redis.checks import TAG

if TYPE_CHECKING:
    from collections.abc import Sequence

    from django.apps import AppConfig

# Apps with a `runserver` of their own, which Django takes from the first app that has one.
WITH_RUNSERVER = ("django.contrib.staticfiles", "daphne")


def register() -> None:
    """Register the checks with Django."""
    for check in (check_order, check_gateway_settings):
        checks.register(check, TAG)


# Django passes further keyword arguments to checks, and refuses checks without **kwargs.


def check_order(app_configs: Sequence[AppConfig] | None, **kwargs: object) -> list[checks.CheckMessage]:
    """Return a warning if another app's `runserver` hides the one of this package."""
    names = [config.name for config in apps.get_app_configs()]
    above = names[: names.index("ws4redis")] if "ws4redis" in names else []
    hiding = [name for name in WITH_RUNSERVER if name in above]
    if not hiding or not django_settings.DEBUG:
        return []
    return [
        checks.Warning(
            f"ws4redis is below {hiding[0]} in INSTALLED_APPS, so manage.py runserver serves no WebSockets.",
            hint=f"Move 'ws4redis' above {hiding[0]!r}.",
            id="ws4redis.W020",
        )
    ]


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
