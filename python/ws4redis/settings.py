"""Settings of the package and their defaults, read from Django's settings at every access.

`ws4redis.settings.WS4REDIS_PREFIX` works as in django-websocket-redis. Unlike there, `override_settings` and changes
after the import take effect.
"""

from __future__ import annotations

from typing import Any

from django.conf import settings as django_settings

DEFAULTS: dict[str, Any] = {
    # Path prefix of the WebSockets; equal to the gateway's `websocket_url`.
    "WEBSOCKET_URL": "/ws/",
    # Keyword arguments of redis-py's connections, or `{"url": "redis://…"}`.
    "WS4REDIS_CONNECTION": {"host": "localhost", "port": 6379, "db": 0, "password": None},
    # Seconds that a message is persisted for later subscribers. None, 0 or negative: not persisted.
    "WS4REDIS_EXPIRE": 3600,
    # Prefix of all keys and channels, without its colon; equal to the gateway's `prefix`.
    "WS4REDIS_PREFIX": None,
    # Of django-websocket-redis, without effect: the gateway runs no Python.
    "WS4REDIS_SUBSCRIBER": "ws4redis.subscriber.RedisSubscriber",
    "WS4REDIS_ALLOWED_CHANNELS": None,
    "WS4REDIS_PROCESS_REQUEST": None,
    # Equal to the gateway's `heartbeat`. A message with this text cannot be published.
    "WS4REDIS_HEARTBEAT": None,
    # Channel of `ws4redis.socketio.Emitter`, without a prefix; in the gateway's `socketio.redis_manager.channels`.
    "WS4REDIS_SOCKETIO_CHANNEL": "socketio",
    # What `manage.py ws4redis_worker` reads: stream:KEY or list:KEY, without a prefix; equal to the gateway's `events.to`.
    "WS4REDIS_EVENTS": "stream:ws4redis:events",
    # Facilities whose messages are kept in streams: patterns, or dicts with facility, messages and seconds; equal to the
    # gateway's `[[history]]` tables.
    "WS4REDIS_HISTORY": (),
    # A callable or its dotted path: (user) -> names of the user's groups. None: the names in `user.groups`.
    "WS4REDIS_GROUPS": None,
    # A callable or its dotted path: () -> the current tenant, for sites whose tenants use the same primary keys.
    "WS4REDIS_IDENTITY_NAMESPACE": None,
    # Seconds that the key of a user lives after its last change. None: twice SESSION_COOKIE_AGE.
    "WS4REDIS_IDENTITY_SECONDS": None,
    # Settings of the gateway that no setting of Django has, such as {"anonymous_publish": False}; for `runserver`,
    # `ws4redis` and `ws4redis_settings`.
    "WS4REDIS_GATEWAY": {},
    # Path of the gateway's binary. None: next to Python, or on PATH.
    "WS4REDIS_BINARY": None,
    # Secret of the gateway's requests to the callback view: a string, or several during a rotation.
    "WS4REDIS_CALLBACK_SECRET": None,
    # Seconds for which an answer of the callback view is valid.
    "WS4REDIS_CALLBACK_SECONDS": 300,
}


def __getattr__(name: str) -> Any:  # noqa: ANN401 - a site may set any value; the system checks validate it
    try:
        return getattr(django_settings, name, DEFAULTS[name])
    except KeyError:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}") from None


def heartbeat_text() -> str | None:
    """Return the text of `WS4REDIS_HEARTBEAT`, or None if it is off. A number stands for its digits, as in templates."""
    heartbeat = __getattr__("WS4REDIS_HEARTBEAT")
    return str(heartbeat) if heartbeat else None


def __dir__() -> list[str]:
    return sorted([*globals(), *DEFAULTS])
