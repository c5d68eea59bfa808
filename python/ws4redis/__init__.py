"""Django integration of the ws4redis gateway, with the import paths of django-websocket-redis.

The decorators `on_message`, `on_connect` and others register the functions that `manage.py ws4redis_worker` calls.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ws4redis.events import Event as Event
    from ws4redis.handlers import on_connect as on_connect
    from ws4redis.handlers import on_disconnect as on_disconnect
    from ws4redis.handlers import on_event as on_event
    from ws4redis.handlers import on_message as on_message
    from ws4redis.handlers import on_node as on_node
    from ws4redis.handlers import on_offline as on_offline
    from ws4redis.handlers import on_online as on_online
    from ws4redis.handlers import on_user as on_user

__version__ = "0.1.0"

_DECORATORS = (
    "on_connect",
    "on_disconnect",
    "on_event",
    "on_message",
    "on_node",
    "on_offline",
    "on_online",
    "on_user",
)


def __getattr__(name: str) -> object:
    # Web processes import this module, and most of them have no handlers.
    if name in _DECORATORS:
        from ws4redis import handlers

        return getattr(handlers, name)
    if name == "Event":
        from ws4redis.events import Event

        return Event
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *_DECORATORS, "Event"])
