"""System checks of MIDDLEWARE: which of Django's middleware this package needs, and in which order."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from django.conf import settings as django_settings
from django.contrib.auth.middleware import AuthenticationMiddleware
from django.contrib.sessions.middleware import SessionMiddleware
from django.core import checks
from django.utils.module_loading import import_string

if TYPE_CHECKING:
    from collections.abc import Sequence

    from django.apps import AppConfig

MIDDLEWARE: Final = "ws4redis.middleware.SessionMiddleware"


# Django passes further keyword arguments to checks, and refuses checks without **kwargs.


def check_middleware(app_configs: Sequence[AppConfig] | None, **kwargs: object) -> list[checks.CheckMessage]:
    """Return a missing or misplaced middleware."""
    names = list(django_settings.MIDDLEWARE)
    sessions, users = _first(names, SessionMiddleware), _first(names, AuthenticationMiddleware)
    found: list[checks.CheckMessage] = []
    if sessions is not None and users is not None and names.index(users) < names.index(sessions):
        found.append(
            checks.Error(
                f"{users} is before {sessions} in MIDDLEWARE, so no request has a user, and the gateway's callback neither.",
                hint=f"Move it after {sessions}.",
                id="ws4redis.E022",
            )
        )
    if MIDDLEWARE in names:
        found += _of_package(names, sessions, users)
    elif sessions is not None:
        found.append(
            checks.Warning(
                f"{MIDDLEWARE} is not in MIDDLEWARE. Sessions from before the installation of this package get no "
                "username, long sessions keep outdated groups, and the gateway learns late of sessions that end "
                "without a logout.",
                hint=f"Add it after {users or 'django.contrib.auth.middleware.AuthenticationMiddleware'}.",
                id="ws4redis.W008",
            )
        )
    return found


def _of_package(names: list[str], sessions: str | None, users: str | None) -> list[checks.CheckMessage]:
    found: list[checks.CheckMessage] = []
    after = names[names.index(MIDDLEWARE) :]
    late = " and ".join(name for name in (sessions, users) if name in after)
    if late:
        found.append(
            checks.Error(
                f"{MIDDLEWARE} is before {late} in MIDDLEWARE.",
                hint=f"Move it after {late}.",
                id="ws4redis.E012",
            )
        )
    wanted = {
        "django.contrib.sessions.middleware.SessionMiddleware": sessions,
        "django.contrib.auth.middleware.AuthenticationMiddleware": users,
    }
    missing = " and ".join(name for name, present in wanted.items() if present is None)
    if missing:
        found.append(
            checks.Warning(
                f"{MIDDLEWARE} has no effect without {missing} in MIDDLEWARE.",
                hint=f"Add {missing} before it, or remove it if the site has no logins.",
                id="ws4redis.W016",
            )
        )
    return found


def _first(names: list[str], kind: type) -> str | None:
    """Return the entry that is this middleware, or else the first subclass, as sites and packages have them."""
    usual = f"{kind.__module__}.{kind.__qualname__}"
    if usual in names:
        return usual
    for name in names:
        if name.startswith("django."):
            continue
        try:
            one = import_string(name)
        except Exception:  # noqa: BLE001, S112 - a module may raise anything; Django names it when it serves
            continue
        if isinstance(one, type) and issubclass(one, kind):
            return name
    return None
