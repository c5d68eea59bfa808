"""Messages, the names of their channels, and their publication."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, Callable, Final, Union, cast
from uuid import UUID
from warnings import warn

import redis
from asgiref.sync import sync_to_async
from django.core.serializers.json import DjangoJSONEncoder
from django.db import transaction
from django.utils.functional import Promise

from ws4redis import history, settings

if TYPE_CHECKING:
    from django.contrib.auth.base_user import AbstractBaseUser
    from django.contrib.auth.models import AnonymousUser
    from django.http import HttpRequest

MEMBEROF: Final = "ws4redis:memberof"


class _Self:
    """The type of `SELF`."""

    def __repr__(self) -> str:
        return "SELF"


# Placeholder in a list of users, groups or sessions: those of the request.
SELF: Final = _Self()

# Audience names. True stands for [SELF], False and None for none; True and a single string are deprecated.
Names = Union[Iterable[object], str, bool, None]


# Anything else has no name that a page could ask for.
Facility = Union[str, int, UUID, Promise]


class WrongArgument(TypeError, ValueError):
    """An argument has a type or value that cannot be published. django-websocket-redis raises ValueError."""


class RedisMessage(bytes):
    """A message in the form in which it is sent to Redis."""

    def __new__(cls, value: object) -> RedisMessage:
        """Convert a value to a message.

        Args:
            value: A string (encoded as UTF-8), bytes, or the list `[b"message", channel, payload]` that redis-py
                returns for a received message.

        Returns:
            The message; None for the text of `WS4REDIS_HEARTBEAT` and for values of other types. Code written for
            django-websocket-redis depends on None.
        """
        if isinstance(value, list) and len(value) >= 3 and value[0] == b"message":
            return super().__new__(cls, value[2])
        if isinstance(value, Promise):
            value = str(value)
        data = value.encode() if isinstance(value, str) else value
        heartbeat = settings.heartbeat_text()
        if not isinstance(data, (bytes, bytearray)) or (heartbeat is not None and data == heartbeat.encode()):
            return None  # type: ignore[return-value]
        return super().__new__(cls, data)

    @classmethod
    def json(cls, value: object) -> RedisMessage:
        """Return a message with the value as compact JSON. Dates, decimals and UUIDs are written as Django does.

        Raises:
            TypeError: The value, or a part of it, has no JSON form; NaN and the infinities have none. The error for
                them is a ValueError as well.
        """
        return cls(encode_json(value))


def encode_json(value: object) -> bytes:
    """Return the value as compact JSON.

    Raises:
        TypeError: As for `RedisMessage.json`.
    """
    try:
        text = json.dumps(
            value, cls=DjangoJSONEncoder, ensure_ascii=False, allow_nan=False, separators=(",", ":")
        )
    except ValueError as error:
        raise WrongArgument(f"the value has no JSON form: {error}") from None
    # Half of a surrogate pair has no UTF-8 form. Its escape in JSON is that of Python.
    return text.encode("utf-8", "backslashreplace")


Message = Union[str, bytes, bytearray, RedisMessage]


class _ExpireSetting:
    """Read `WS4REDIS_EXPIRE` at every access. Subclasses and instances may replace it with a number."""

    def __get__(self, instance: object, owner: type) -> int | None:
        seconds: int | None = settings.WS4REDIS_EXPIRE
        return seconds


class RedisStore:
    """Publish to a set of channels through a redis-py client."""

    _expire: int | None = _ExpireSetting()  # type: ignore[assignment]

    def __init__(self, connection: redis.Redis) -> None:
        """Start without channels."""
        self._connection = connection
        self._publishers: set[str] = set()
        # None: messages are not kept in streams.
        self._history: history.HistoryLimits | None = None
        self._history_prefix = ""

    def publish_message(self, message: Message, expire: int | None = None) -> int:
        """Publish a message to all channels of this store, in one round trip.

        Args:
            message: The payload.
            expire: Seconds that the message is persisted for later subscribers; 0, False or negative: not persisted.
                None stands for `WS4REDIS_EXPIRE`; if that is None, too, the message is not persisted.

        Returns:
            The number of subscribers that received the message: gateways, not browsers.

        Raises:
            TypeError: An argument has a wrong type, or the message is the text of `WS4REDIS_HEARTBEAT`. The error is
                a ValueError as well, as in django-websocket-redis.
            ws4redis.history.HistoryRefused: The facility keeps a history, and Redis refuses the script that writes it.
            redis.RedisError: Redis is unreachable or refuses a command. The message may have been published.
        """
        # No MULTI needed: a subscriber that joins between SETEX and PUBLISH gets the persisted message.
        return self.pipeline_publish_message(message, expire, transaction=False)

    def pipeline_publish_message(
        self, message: Message, expire: int | None = None, transaction: bool = True
    ) -> int:
        """Publish as `publish_message` does, by default in MULTI and EXEC: to all channels or to none.

        Args:
            message: The payload.
            expire: Seconds, as for `publish_message`.
            transaction: Send MULTI and EXEC.

        Returns:
            The number of subscribers that received the message: gateways, not browsers.

        Raises:
            TypeError: As for `publish_message`.
            redis.RedisError: As for `publish_message`.
        """
        payload, seconds = _checked_message(message), self._seconds(expire)
        if not self._publishers:
            self._warn_without_channels()
            return 0
        if self._intercept(payload, seconds):
            return 0
        if isinstance(self._connection, redis.RedisCluster):
            return self._publish_to_cluster(payload, seconds)
        pipeline = self._connection.pipeline(transaction=transaction)
        published = []
        for channel in sorted(self._publishers):
            if self._history is not None:
                published.append(len(pipeline))
                pipeline.eval(
                    *history.arguments(self._history_prefix, channel, self._history, payload, seconds)
                )
                continue
            # SETEX before PUBLISH: with the other order, a client that connects between the two gets neither.
            if seconds > 0:
                # redis-py's own setex() warns of its deprecation, and the contract with the gateway names SETEX.
                pipeline.execute_command("SETEX", channel, seconds, payload)
            published.append(len(pipeline))
            pipeline.publish(channel, payload)
        try:
            replies = pipeline.execute()
        except redis.ResponseError as error:
            refusal = history.refusal(error) if self._history is not None else None
            if refusal is None:
                raise
            # Without the cause: redis-py's text contains the command, and with it the message.
            raise refusal from None
        return sum(replies[index] for index in published)

    def _publish_to_cluster(self, payload: bytes, seconds: int) -> int:
        # A command for each key follows its slot to another node. PUBLISH reaches the subscribers of all nodes.
        client: Any = self._connection
        receivers = 0
        for channel in sorted(self._publishers):
            names = history.names_in_cluster(self._history_prefix, channel) if self._history else None
            if self._history is not None and names is not None:
                limits = self._history
                arguments = history.arguments(self._history_prefix, channel, limits, payload, seconds, names)
                try:
                    receivers += client.eval(*arguments)
                except redis.ResponseError as error:
                    # Without the cause, as above.
                    raise history.refusal(error) or error from None
                continue
            if seconds > 0:
                client.execute_command("SETEX", channel, seconds, payload)
            receivers += client.publish(channel, payload)
        return receivers

    def _warn_without_channels(self) -> None:
        """Warn of a message that reaches no channel."""

    def _intercept(self, payload: bytes, seconds: int) -> bool:
        """Take over a publication in a test run. Return True if it must not be sent to Redis."""
        return False

    async def apublish_message(self, message: Message, expire: int | None = None) -> int:
        """Publish as `publish_message` does, for async views.

        The command runs in a thread on the shared pool. A pool of asyncio connections would belong to one event loop,
        and Django creates new loops.

        Raises:
            TypeError: As for `publish_message`.
            redis.RedisError: As for `publish_message`.
        """
        return await sync_to_async(self.publish_message, thread_sensitive=False)(message, expire)

    def publish_message_on_commit(
        self, message: Message, expire: int | None = None, using: str | None = None
    ) -> None:
        """Publish when the transaction is committed, or immediately without one. A rollback discards the message.

        Args:
            message: The payload.
            expire: Seconds, as for `publish_message`.
            using: Alias of the database whose transaction counts; None: the default database.

        Raises:
            TypeError: As for `publish_message`; raised immediately, not at the commit.
            redis.RedisError: As for `publish_message`; raised by the commit.
        """
        payload, seconds = _checked_message(message), self._seconds(expire)
        transaction.on_commit(lambda: self.publish_message(payload, seconds) and None, using=using)

    def publish_json(self, value: object, expire: int | None = None) -> int:
        """Publish a value as JSON. Parameters and result are those of `publish_message`.

        Raises:
            TypeError: The value has no JSON form, or as for `publish_message`.
            redis.RedisError: As for `publish_message`.
        """
        return self.publish_message(RedisMessage.json(value), expire)

    async def apublish_json(self, value: object, expire: int | None = None) -> int:
        """Publish as `publish_json` does, for async views.

        Raises:
            TypeError: As for `publish_json`.
            redis.RedisError: As for `publish_message`.
        """
        return await self.apublish_message(RedisMessage.json(value), expire)

    def publish_json_on_commit(
        self, value: object, expire: int | None = None, using: str | None = None
    ) -> None:
        """Publish a value as JSON as `publish_message_on_commit` does. The value is converted immediately.

        Raises:
            TypeError: As for `publish_json`; raised immediately, not at the commit.
            redis.RedisError: As for `publish_message`; raised by the commit.
        """
        self.publish_message_on_commit(RedisMessage.json(value), expire, using)

    @staticmethod
    def get_prefix() -> str:
        """Return `WS4REDIS_PREFIX` followed by a colon, or an empty string."""
        prefix = settings.WS4REDIS_PREFIX
        return f"{prefix}:" if prefix else ""

    def _seconds(self, expire: int | None) -> int:
        if expire is None:
            expire = self._expire
        if expire is None or expire is False:
            return 0
        if isinstance(expire, bool) or not isinstance(expire, int):
            raise WrongArgument(f"expire must be an int (seconds) or None, not {type(expire).__name__}")
        return expire

    def _get_message_channels(
        self,
        request: HttpRequest | None = None,
        facility: Facility = "{facility}",
        broadcast: bool = False,
        groups: Names = (),
        users: Names = (),
        sessions: Names = (),
    ) -> list[str]:
        facility = facility_name(facility)
        if not isinstance(broadcast, bool):
            raise WrongArgument(f"broadcast must be True or False, not {type(broadcast).__name__}")
        names: list[tuple[str, str | None]] = [("broadcast", None)] if broadcast else []
        for argument, audience, given, resolve_self in (
            ("groups", "group", groups, _own_groups),
            ("users", "user", users, _own_user),
            ("sessions", "session", sessions, _own_session),
        ):
            names += [(audience, name) for name in _names(argument, given, request, resolve_self)]
        return [self.channel(audience, name, facility) for audience, name in names]

    def channel(self, audience: str, name: str | None, facility: str) -> str:
        """Return `[PREFIX:]AUDIENCE[:NAME]:FACILITY`: the channel, and the key of the persisted message.

        Args:
            audience: "broadcast", "group", "user" or "session".
            name: Name of the group or user, or session key; None for the broadcast.
            facility: Name of the facility.
        """
        middle = audience if name is None else f"{audience}:{name}"
        return f"{self.get_prefix()}{middle}:{facility}"


def facility_name(facility: object) -> str:
    """Return the name of a facility as in channels.

    Raises:
        TypeError: It is neither a string nor a number, a UUID or a lazy string. The error is a ValueError as well.
    """
    if isinstance(facility, bool) or not isinstance(facility, (str, int, UUID, Promise)):
        raise WrongArgument(f"facility must be a str, not {type(facility).__name__}")
    return f"{facility}"


def user_name(user: AbstractBaseUser | AnonymousUser) -> str | None:
    """Return the username, or None if it is empty (AnonymousUser) or null (a nullable `USERNAME_FIELD`)."""
    # The stubs exclude null, a nullable USERNAME_FIELD does not.
    name: str | None = user.get_username()
    return str(name) or None if name is not None else None


def is_authenticated(request: HttpRequest | None) -> bool:
    """Return True if the request has a logged-in user."""
    user = getattr(request, "user", None)
    return user is not None and bool(user.is_authenticated)


def warn_caller(text: str) -> None:
    """Warn with the line of the site that has called this package."""
    level, frame = 1, sys._getframe()
    while frame.f_back is not None and frame.f_globals.get("__name__", "").startswith("ws4redis."):
        level, frame = level + 1, frame.f_back
    warn(text, RuntimeWarning, stacklevel=level)


def _checked_message(message: object) -> RedisMessage:
    if isinstance(message, RedisMessage):
        return message
    if isinstance(message, (str, bytes, bytearray, Promise)):
        converted: RedisMessage | None = RedisMessage(message)
        if converted is None:
            raise WrongArgument(
                "message is the text of WS4REDIS_HEARTBEAT; browsers would treat it as a heartbeat"
            )
        return converted
    hint = ": RedisMessage() returns None for the heartbeat and for unknown types" if message is None else ""
    raise WrongArgument(
        f"message must be a RedisMessage, str or bytes, not {type(message).__name__}{hint}"
        + ("; use publish_json" if isinstance(message, (dict, list)) else "")
    )


def _names(
    argument: str,
    given: Names,
    request: HttpRequest | None,
    resolve_self: Callable[[str, HttpRequest | None], list[str]],
) -> list[str]:
    if given is False or given is None:
        return []
    # The warnings name the line that creates the publisher: _names, _get_message_channels, __init__, caller.
    if given is True:
        warn(f"{argument}=True is deprecated: write {argument}=[SELF]", DeprecationWarning, stacklevel=4)
        # As in django-websocket-redis, True publishes to no channel for an anonymous visitor; SELF is an error there.
        return resolve_self(argument, request) if _has_identity(argument, request) else []
    if isinstance(given, str):
        warn(f"{argument} should be a list: write {argument}=[{given!r}]", DeprecationWarning, stacklevel=4)
        return [_not_empty(argument, given)]
    if isinstance(given, (bytes, bytearray, Mapping)) or not isinstance(given, Iterable):
        raise WrongArgument(f"{argument} must be a list of names, not {type(given).__name__}")
    names: list[str] = []
    for item in given:
        if item is SELF:
            names += resolve_self(argument, request)
        else:
            names.append(_not_empty(argument, _name(argument, item)))
    return names


def _not_empty(argument: str, name: str) -> str:
    # Everybody without a name would share one channel.
    if not name:
        raise WrongArgument(f"{argument} must not contain empty names")
    return name


def _name(argument: str, item: object) -> str:
    if isinstance(item, str):
        return item
    if isinstance(item, bool):
        raise WrongArgument(f"{argument} must contain names, not bool")
    if isinstance(item, (int, UUID, Promise)):
        # Primary keys, for gateways with `session.user = "pk"`, and translated names.
        return str(item)
    if argument == "users" and hasattr(item, "get_username"):
        return user_name(cast("AbstractBaseUser", item)) or ""
    if argument == "groups" and isinstance(getattr(item, "name", None), str):
        return str(item.name)  # type: ignore[attr-defined]
    raise WrongArgument(f"{argument} must contain names, not {type(item).__name__}")


def _has_identity(argument: str, request: HttpRequest | None) -> bool:
    if argument == "sessions":
        return getattr(getattr(request, "session", None), "session_key", None) is not None
    if request is None or not is_authenticated(request):
        return False
    return argument == "groups" or user_name(request.user) is not None


def _require_request(argument: str, request: HttpRequest | None) -> HttpRequest:
    if request is None:
        raise WrongArgument(
            f"{argument} contains SELF without a request: pass RedisPublisher(request=request, …)"
        )
    return request


def _require_login(argument: str, request: HttpRequest | None) -> HttpRequest:
    request = _require_request(argument, request)
    if not is_authenticated(request):
        raise WrongArgument(f"{argument} contains SELF, but the visitor is not logged in")
    return request


def _own_user(argument: str, request: HttpRequest | None) -> list[str]:
    name = user_name(_require_login(argument, request).user)
    if name is None:
        raise WrongArgument(
            f"{argument} contains SELF, but the user of this request has no username, and therefore no channel"
        )
    return [name]


def _own_groups(argument: str, request: HttpRequest | None) -> list[str]:
    # The session's list, which the gateway reads as well; it costs no query.
    return [name for name in _require_login(argument, request).session.get(MEMBEROF, []) if name]


def _own_session(argument: str, request: HttpRequest | None) -> list[str]:
    request = _require_request(argument, request)
    if not _has_identity(argument, request):
        raise WrongArgument(
            f"{argument} contains SELF, but this request has no session key: call request.session.create() first"
        )
    return [str(request.session.session_key)]
