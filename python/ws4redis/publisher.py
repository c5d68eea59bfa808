"""The publisher for views, tasks and commands."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from asgiref.sync import sync_to_async

from ws4redis import connection, testing
from ws4redis.redis_store import MEMBEROF, RedisStore, is_authenticated, user_name

if TYPE_CHECKING:
    from django.http import HttpRequest


class RedisPublisher(RedisStore):
    """Publishes to a facility's audiences; light, made where it is needed.

    `RedisPublisher(facility="foobar", broadcast=True, users=["john", SELF], request=request)`

    `users`, `groups` and `sessions` are lists of names; `SELF` in them stands for the user, the groups or the session
    of `request`. Raises TypeError (which is a ValueError, too) for arguments of a wrong type, and for SELF without a
    request or without a login.
    """

    def __init__(self, **kwargs: Any) -> None:
        """Takes `request`, `facility`, `broadcast`, `groups`, `users` and `sessions`, by keyword."""
        super().__init__(connection.client())
        self._publishers.update(self._get_message_channels(**kwargs))

    def fetch_message(
        self, request: HttpRequest | None, facility: str, audience: str = "any"
    ) -> bytes | None:
        """Returns the first kept message for the request's session, user, groups or everybody, or None.

        `audience` limits it to one of "session", "user", "group" and "broadcast".
        """
        for channel in self._readable_channels(request, facility, audience):
            message: Any = testing.kept(channel) if testing.is_muted() else self._connection.get(channel)
            if message:
                return message  # type: ignore[no-any-return]
        return None

    def _admit(self, payload: bytes, seconds: int) -> bool:
        testing.record(sorted(self._publishers), payload, seconds)
        if not testing.is_muted():
            return True
        testing.warn_once()
        return False

    async def afetch_message(
        self, request: HttpRequest | None, facility: str, audience: str = "any"
    ) -> bytes | None:
        """As `fetch_message`, for async views."""
        # Thread sensitive, since request.user may have to be read from the database.
        return await sync_to_async(self.fetch_message)(request, facility, audience)

    def _readable_channels(self, request: Any, facility: str, audience: str) -> list[str]:
        names: list[tuple[str, str | None]] = []
        session = getattr(request, "session", None)
        if audience in ("session", "any") and session is not None and session.session_key:
            names.append(("session", session.session_key))
        if audience in ("user", "any") and is_authenticated(request):
            name = user_name(request.user)
            names += [("user", name)] if name else []
        if audience in ("group", "any") and is_authenticated(request) and session is not None:
            names += [("group", group) for group in session.get(MEMBEROF, []) if group]
        if audience in ("broadcast", "any"):
            names.append(("broadcast", None))
        return [self.channel(audience, name, facility) for audience, name in names]


def __getattr__(name: str) -> Any:
    # Made at import by django-websocket-redis; here at the first use.
    if name == "redis_connection_pool":
        return connection.pool()
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
