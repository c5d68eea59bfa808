"""The publisher for views, tasks and commands."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from asgiref.sync import sync_to_async

from ws4redis import connection, testing
from ws4redis import history as histories
from ws4redis.redis_store import (
    MEMBEROF,
    RedisStore,
    WrongArgument,
    facility_name,
    is_authenticated,
    user_name,
    warn_caller,
)

if TYPE_CHECKING:
    import redis
    from django.http import HttpRequest

    from ws4redis.redis_store import Facility, Names


class _NoNames(tuple[str, ...]):
    """The type of a default, which differs from each list that a site passes."""


_NO_NAMES: Final = _NoNames()
# Sites may write this text themselves, which Python stores once; a default of another object shows that they have not.
_NO_FACILITY: Final = "".join(("{", "facility}"))


class RedisPublisher(RedisStore):
    """Publish to the audiences of a facility. An instance is cheap; create one per use.

    `RedisPublisher(facility="foobar", broadcast=True, users=["john", SELF], request=request)`
    """

    def __init__(
        self,
        *,
        request: HttpRequest | None = None,
        facility: Facility = _NO_FACILITY,
        broadcast: bool = False,
        groups: Names = _NO_NAMES,
        users: Names = _NO_NAMES,
        sessions: Names = _NO_NAMES,
        history: bool | None = None,
    ) -> None:
        """Select the channels.

        Args:
            request: The request that `SELF` refers to.
            facility: Name of the facility: text, or a number or UUID, whose text is the name. Without it the name is
                "{facility}", as in django-websocket-redis, and a publisher with an audience warns.
            broadcast: Publish to all clients.
            groups: Names of groups, groups, or `SELF` for the groups of the request's user.
            users: Usernames, users, primary keys (for gateways with `session.user = "pk"`), or `SELF` for the
                request's user.
            sessions: Session keys, or `SELF` for the request's session.
            history: Keep the messages in the streams of the channels. None: if a rule of `WS4REDIS_HISTORY` matches the
                facility. True without such a rule: 100 messages for an hour.

        Raises:
            TypeError: An argument has a wrong type, a name is empty, or `SELF` is used without a request, a login, a
                username or a session key. The error is a ValueError as well, as in django-websocket-redis.
                Also if `WS4REDIS_CONNECTION` has an unknown argument.
            ValueError: The URL in `WS4REDIS_CONNECTION`, or `WS4REDIS_HISTORY`, is invalid.
        """
        super().__init__(connection.client())
        if history is not None and not isinstance(history, bool):
            raise WrongArgument(f"history must be True, False or None, not {type(history).__name__}")
        if history is not False:
            limits = histories.limits_of(facility_name(facility))
            self._history = limits or (histories.HistoryLimits() if history else None)
            self._history_prefix = self.get_prefix()
        self._has_audience = broadcast or any(names is not _NO_NAMES for names in (groups, users, sessions))
        self._publishers.update(
            self._get_message_channels(request, facility, broadcast, groups, users, sessions)
        )
        if self._has_audience and facility is _NO_FACILITY:
            warn_caller("RedisPublisher has no facility; no page gets its messages. Write facility='…'")

    def fetch_message(
        self, request: HttpRequest | None, facility: Facility, audience: str = "any"
    ) -> bytes | None:
        """Return the first persisted message for the request's session, user, groups or everybody, in this order.

        Args:
            request: The request whose session, user and groups are read. None: only the broadcast channel is read.
            facility: Name of the facility.
            audience: "session", "user", "group" or "broadcast" for one of them, "any" for all.

        Returns:
            The payload, or None if there is no message.

        Raises:
            redis.RedisError: Redis is unreachable or refuses the command.
        """
        for channel in self._readable_channels(request, facility, audience):
            # redis-py declares its replies as possibly awaitable.
            message: Any = (
                testing.last_persisted(channel) if testing.is_muted() else self._connection.get(channel)
            )
            if message:
                return message  # type: ignore[no-any-return]
        return None

    def _warn_without_channels(self) -> None:
        # A list of users that is empty today is no mistake.
        if not self._has_audience:
            warn_caller(
                "RedisPublisher has no audience; nobody gets this message. "
                "Write broadcast=True, users=[…], groups=[…] or sessions=[…]"
            )

    def _intercept(self, payload: bytes, seconds: int) -> bool:
        return testing.intercept(
            sorted(self._publishers), payload, seconds, history=self._history is not None
        )

    async def afetch_message(
        self, request: HttpRequest | None, facility: Facility, audience: str = "any"
    ) -> bytes | None:
        """Return the same as `fetch_message`, for async views.

        Raises:
            redis.RedisError: Redis is unreachable or refuses the command.
        """
        # Thread-sensitive, because reading request.user may query the database.
        return await sync_to_async(self.fetch_message)(request, facility, audience)

    def history(
        self, facility: Facility, audience: str = "broadcast", count: int = 100
    ) -> list[histories.HistoryMessage]:
        """Return the last messages of a channel that keeps a history, in the order of publication.

        In a test run the messages that the innermost capture would keep.

        Args:
            facility: Name of the facility.
            audience: "broadcast", "group:NAME", "user:NAME" or "session:KEY".
            count: Most messages to return.

        Returns:
            The messages with their ids; none if the channel has no history, or its stream has expired.

        Raises:
            TypeError: An argument has a wrong type, or there is no such audience. The error is a ValueError as well.
            redis.RedisError: Redis is unreachable or refuses the command.
        """
        facility = facility_name(facility)
        if isinstance(count, bool) or not isinstance(count, int) or count < 1:
            raise WrongArgument("count must be an int of at least 1")
        kind, colon, name = audience.partition(":") if isinstance(audience, str) else ("", "", "")
        if kind not in ("broadcast", "group", "user", "session") or (kind == "broadcast") == bool(
            colon and name
        ):
            raise WrongArgument("audience must be 'broadcast', 'group:NAME', 'user:NAME' or 'session:KEY'")
        channel = self.channel(kind, name or None, facility)
        if testing.is_muted():
            return testing.kept(channel)[-count:]
        key: str | None = histories.stream_key(self.get_prefix(), channel)
        if connection.is_cluster():
            key = (histories.names_in_cluster(self.get_prefix(), channel) or (None,))[0]
        return histories.read(self._connection, key, count) if key is not None else []

    async def ahistory(
        self, facility: Facility, audience: str = "broadcast", count: int = 100
    ) -> list[histories.HistoryMessage]:
        """Return the same as `history`, for async views.

        Raises:
            TypeError: As for `history`.
            redis.RedisError: Redis is unreachable or refuses the command.
        """
        return await sync_to_async(self.history, thread_sensitive=False)(facility, audience, count)

    def _readable_channels(self, request: HttpRequest | None, facility: Facility, audience: str) -> list[str]:
        names: list[tuple[str, str | None]] = []
        session = getattr(request, "session", None)
        if audience in ("session", "any") and session is not None and session.session_key:
            names.append(("session", session.session_key))
        user = request.user if request is not None and is_authenticated(request) else None
        if audience in ("user", "any") and user is not None:
            name = user_name(user)
            names += [("user", name)] if name else []
        if audience in ("group", "any") and user is not None and session is not None:
            names += [("group", group) for group in session.get(MEMBEROF, []) if group]
        if audience in ("broadcast", "any"):
            names.append(("broadcast", None))
        return [self.channel(audience, name, f"{facility}") for audience, name in names]


def __getattr__(name: str) -> redis.ConnectionPool:
    # django-websocket-redis creates this pool at import; here the first use creates it, after a possible fork.
    if name == "redis_connection_pool":
        return connection.pool()
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
