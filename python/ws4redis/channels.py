"""Events for groups of Django Channels, written to Redis as channels_redis writes them, over kept connections.

`CHANNEL_LAYERS` decides about servers, prefix, serializer and encryption. Channels need not be installed; the package
msgpack has to be, which channels_redis installs. Each call of `async_to_sync(layer.group_send)` connects to Redis anew,
because it creates an event loop and the layers keep connections per loop. That is most of its cost.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from typing import Any, Final, Protocol

from asgiref.sync import async_to_sync, sync_to_async
from django.conf import settings as django_settings
from django.core.exceptions import ImproperlyConfigured
from django.core.signals import setting_changed
from django.utils.module_loading import import_string

from ws4redis.channel_layers import CoreLayer, PubSubLayer, hosts_of, pool_of
from ws4redis.connection import address_of
from ws4redis.redis_store import WrongArgument

PUBSUB: Final = "channels_redis.pubsub.RedisPubSubChannelLayer"
CORE: Final = "channels_redis.core.RedisChannelLayer"


def group_send(group: str, event: Mapping[str, Any], *, using: str = "default") -> int:
    """Send an event to a group, as `async_to_sync(channel_layer.group_send)` does.

    Consumers and gateways receive the same bytes as from the layer. A layer of another kind, such as
    `InMemoryChannelLayer`, is called itself. In a test run nothing is sent to Redis; `capture_publications` records the
    event.

    Args:
        group: Name of the group.
        event: The event; consumers need its `type`, the name of their method.
        using: Alias of the layer in `CHANNEL_LAYERS`.

    Returns:
        The number of processes that got the event: ASGI servers and gateways. 0 from a layer that is called itself.

    Raises:
        TypeError: The group is no valid name, or the event cannot be serialized. The error is a ValueError as well.
        ImproperlyConfigured: `CHANNEL_LAYERS` has no such layer or wrong arguments, or a package is missing that the
            layer needs.
        redis.RedisError: Redis is unreachable or refuses a command. The event may have been sent.
    """
    if not isinstance(group, str):
        raise WrongArgument(f"group must be a str, not {type(group).__name__}")
    if not isinstance(event, Mapping):
        raise WrongArgument(f"event must be a dict, not {type(event).__name__}")
    return _layer(using).group_send(group, event)


async def agroup_send(group: str, event: Mapping[str, Any], *, using: str = "default") -> int:
    """Send an event as `group_send` does, for async views and consumers; the command runs in a thread.

    Raises:
        TypeError: As for `group_send`.
        ImproperlyConfigured: As for `group_send`.
        redis.RedisError: As for `group_send`.
    """
    return await sync_to_async(group_send, thread_sensitive=False)(group, event, using=using)


def gateway_settings(using: str = "default") -> dict[str, str]:
    """Return the settings of the gateway's `[channels]` for a layer, without secrets; empty for layers of other kinds.

    Args:
        using: Alias of the layer in `CHANNEL_LAYERS`.

    Raises:
        ImportError: The layer is not one of channels_redis, and cannot be imported.
        ValueError: The hosts have a wrong form.
        TypeError: redis-py does not know an argument of a host.
    """
    configured = getattr(django_settings, "CHANNEL_LAYERS", {}).get(using, {})
    kind = _kind(configured["BACKEND"]) if "BACKEND" in configured else None
    if kind is None:
        return {}
    config = configured.get("CONFIG", {})
    return {
        "channels.layer": "core" if kind is CoreLayer else "pubsub",
        "channels.prefix": str(config.get("prefix", "asgi")),
        "channels.serializer": str(config.get("serializer_format", "msgpack")),
        "channels.hosts": ", ".join(address_of(pool_of(host)) for host in hosts_of(config.get("hosts"))),
        "channels.symmetric_encryption_keys": str(len(config.get("symmetric_encryption_keys") or ())),
    }


class ChannelLayer(Protocol):
    """A layer of `CHANNEL_LAYERS`, as far as this module uses it."""

    def group_send(self, group: str, event: Mapping[str, Any]) -> int:
        """Send an event to a group; return the number of processes that got it."""


class _OtherLayer:
    """A layer that does not use channels_redis."""

    def __init__(self, alias: str) -> None:
        self._alias = alias

    def group_send(self, group: str, event: Mapping[str, Any]) -> int:
        get_channel_layer = import_string("channels.layers.get_channel_layer")
        async_to_sync(get_channel_layer(self._alias).group_send)(group, dict(event))
        return 0


_layers: dict[str, ChannelLayer] = {}


def _layer(alias: str) -> ChannelLayer:
    layer = _layers.get(alias)
    if layer is None:
        # Two threads may both create one; the later stays.
        layer = _layers[alias] = _new_layer(alias)
    return layer


def _new_layer(alias: str) -> ChannelLayer:
    configured = getattr(django_settings, "CHANNEL_LAYERS", {}).get(alias)
    if configured is None:
        raise ImproperlyConfigured(f"CHANNEL_LAYERS has no layer {alias!r}")
    kind = _kind(configured["BACKEND"])
    if kind is None:
        return _OtherLayer(alias)
    try:
        return kind(**configured.get("CONFIG", {}))
    except (TypeError, ValueError) as error:
        raise ImproperlyConfigured(f"CHANNEL_LAYERS[{alias!r}] is unusable: {error}") from error


def _kind(backend: str) -> Callable[..., ChannelLayer] | None:
    kinds: dict[str, Callable[..., ChannelLayer]] = {PUBSUB: PubSubLayer, CORE: CoreLayer}
    if backend in kinds:
        # The usual case needs no import of Channels.
        return kinds[backend]
    ancestors = (f"{found.__module__}.{found.__qualname__}" for found in import_string(backend).__mro__)
    return next((kinds[name] for name in ancestors if name in kinds), None)


def _on_setting_changed(*, setting: str, **_: object) -> None:  # Django's signals require **kwargs.
    if setting == "CHANNEL_LAYERS":
        _layers.clear()


# A child process that shares its parent's connections would read its parent's replies.
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_layers.clear)
setting_changed.connect(_on_setting_changed, dispatch_uid="ws4redis.channels")
