"""The package's settings with their defaults, read from Django's settings at every access.

`ws4redis.settings.WS4REDIS_PREFIX` works as in django-websocket-redis; unlike there, `override_settings` and changes
after the import are seen.
"""

from __future__ import annotations

from typing import Any

from django.conf import settings as django_settings

DEFAULTS: dict[str, Any] = {
    # Path prefix of the WebSockets, as `websocket_url` of the gateway.
    "WEBSOCKET_URL": "/ws/",
    # Keyword arguments of redis-py's connections, or `{"url": "redis://…"}`.
    "WS4REDIS_CONNECTION": {"host": "localhost", "port": 6379, "db": 0, "password": None},
    # Seconds for which a published message is kept for those who connect later; None, 0, negative: not kept.
    "WS4REDIS_EXPIRE": 3600,
    # Prefix of all names in Redis, without its colon, as `prefix` of the gateway.
    "WS4REDIS_PREFIX": None,
    # The gateway's `heartbeat`, for the templates; a message of this text cannot be published.
    "WS4REDIS_HEARTBEAT": None,
    # A callable, or its dotted path: (user) -> names of the user's groups. None: `user.groups`.
    "WS4REDIS_GROUPS": None,
    # A callable, or its dotted path: () -> the tenant of now, where users of several have the same primary keys.
    "WS4REDIS_IDENTITY_NAMESPACE": None,
    # Seconds for which the identity key of a user is kept after its last change. None: twice SESSION_COOKIE_AGE.
    "WS4REDIS_IDENTITY_SECONDS": None,
    # What the gateway proves itself with at the callback view: a text, or several while it is being changed.
    "WS4REDIS_CALLBACK_SECRET": None,
    # Seconds after which the gateway asks the callback view again.
    "WS4REDIS_CALLBACK_SECONDS": 300,
}


def __getattr__(name: str) -> Any:
    try:
        return getattr(django_settings, name, DEFAULTS[name])
    except KeyError:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}") from None


def __dir__() -> list[str]:
    return sorted([*globals(), *DEFAULTS])
