"""The subscriber of django-websocket-redis, for code that imports it. The gateway does its work and runs no Python."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final
from warnings import warn

from ws4redis import settings
from ws4redis.redis_store import SELF, RedisStore

if TYPE_CHECKING:
    from collections.abc import Iterable

    import redis
    from django.http import HttpRequest

__all__ = ["SELF", "RedisSubscriber"]

AUDIENCES: Final = ("session", "group", "user", "broadcast")


class RedisSubscriber(RedisStore):
    """Subscribe to the channels of a request. Deprecated: nothing calls a subclass, nor its overridden methods."""

    subscription_channels: list[str] = [f"subscribe-{audience}" for audience in AUDIENCES]
    publish_channels: list[str] = [f"publish-{audience}" for audience in AUDIENCES]

    def __init__(self, connection: redis.Redis) -> None:
        """Start without channels, with a DeprecationWarning."""
        warn(
            "RedisSubscriber is deprecated: the gateway subscribes for browsers, and calls no Python. "
            '"Custom subscribers" in docs/django.md has what replaces its methods',
            DeprecationWarning,
            stacklevel=2,
        )
        super().__init__(connection)
        self._subscription: Any = None

    def set_pubsub_channels(self, request: HttpRequest, channels: Iterable[str]) -> None:
        """Subscribe to the channels of a request's path, and select those for `publish_message`.

        Args:
            request: The request, with the facility in its path, a session and a user.
            channels: Flags such as "subscribe-broadcast" and "publish-user".

        Raises:
            TypeError: A flag needs a login or a session that the request lacks. The error is a ValueError as well.
            redis.RedisError: Redis is unreachable.
        """
        facility = request.path_info.replace(settings.WEBSOCKET_URL, "", 1)
        flags = set(channels)
        self._publishers = set(self._channels_of(request, facility, "publish", flags))
        self._subscription = self._connection.pubsub()
        for name in self._channels_of(request, facility, "subscribe", flags):
            self._subscription.subscribe(name)

    def parse_response(self) -> Any:  # noqa: ANN401 - the reply of redis-py
        """Return the next reply of the subscription, for `RedisMessage`; waits for it."""
        return self._subscription.parse_response()

    def send_persisted_messages(self, websocket: Any) -> None:  # noqa: ANN401 - anything with `send`
        """Send the persisted message of each channel to an object with a method `send`."""
        for name in self._subscription.channels:
            message = self._connection.get(name)
            if message:
                websocket.send(message)

    # The name that old releases have.
    send_persited_messages = send_persisted_messages

    def get_file_descriptor(self) -> int | None:
        """Return the file descriptor of the subscription's connection, or None without one."""
        used = self._subscription and self._subscription.connection
        return used._sock.fileno() if used else None

    def release(self) -> None:
        """End the subscription."""
        if self._subscription is not None and self._subscription.subscribed:
            self._subscription.unsubscribe()
            self._subscription.reset()

    def _channels_of(self, request: HttpRequest, facility: str, action: str, flags: set[str]) -> list[str]:
        def own(audience: str) -> list[object]:
            return [SELF] if f"{action}-{audience}" in flags else []

        return self._get_message_channels(
            request=request,
            facility=facility,
            broadcast=f"{action}-broadcast" in flags,
            groups=own("group"),
            users=own("user"),
            sessions=own("session"),
        )
