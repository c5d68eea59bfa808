"""Messages, the names of their channels, and how they are published."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, Final, Union
from uuid import UUID
from warnings import warn

from asgiref.sync import sync_to_async
from django.core.serializers.json import DjangoJSONEncoder
from django.db import transaction
from django.utils.functional import Promise

from ws4redis import settings

if TYPE_CHECKING:
    import redis
    from django.http import HttpRequest

MEMBEROF: Final = "ws4redis:memberof"


class _Self:
    """The type of `SELF`."""

    def __repr__(self) -> str:
        return "SELF"


# In a list of users, groups or sessions: the user, the groups or the session of the request.
SELF: Final = _Self()


class WrongArgument(TypeError, ValueError):
    """An argument of a type or value that cannot be published; django-websocket-redis raised ValueError."""


class RedisMessage(bytes):
    """A message as it goes to Redis.

    Takes text, which becomes UTF-8, bytes, or redis-py's list of a received message. For the heartbeat's text and
    for everything else the constructor returns None, as in django-websocket-redis.
    """

    def __new__(cls, value: Any) -> RedisMessage:  # None for what is no message, which old code relies on
        if isinstance(value, list) and len(value) >= 3 and value[0] == b"message":
            return super().__new__(cls, value[2])
        if isinstance(value, Promise):
            value = str(value)
        data = value.encode() if isinstance(value, str) else value
        heartbeat = settings.WS4REDIS_HEARTBEAT
        if not isinstance(data, (bytes, bytearray)) or (heartbeat is not None and data == heartbeat.encode()):
            return None  # type: ignore[return-value]
        return super().__new__(cls, data)

    @classmethod
    def json(cls, value: Any) -> RedisMessage:
        """Returns a message with the value as compact JSON; dates, decimals and UUIDs as Django writes them."""
        return cls(json.dumps(value, cls=DjangoJSONEncoder, ensure_ascii=False, separators=(",", ":")))


Message = Union[str, bytes, bytearray, RedisMessage]


class _SettingsExpire:
    """Reads WS4REDIS_EXPIRE at every use; subclasses and instances may put a number in its place."""

    def __get__(self, instance: Any, owner: Any) -> Any:
        return settings.WS4REDIS_EXPIRE


class RedisStore:
    """Publishes on a set of channels over a redis-py client."""

    _expire: Any = _SettingsExpire()

    def __init__(self, connection: redis.Redis) -> None:
        self._connection = connection
        self._publishers: set[str] = set()

    def publish_message(self, message: Message, expire: int | None = None) -> int:
        """Publishes the message on all channels of this store, in one round trip.

        `expire` is the time in seconds for which the message is also kept for those who connect later; 0 and
        negative: not kept. None stands for WS4REDIS_EXPIRE, and if that is None: not kept.

        Returns the number of receivers: gateways and other subscribers, not browsers. Raises TypeError for
        arguments of a wrong type, and redis.RedisError if Redis cannot be reached.
        """
        # Redis itself needs no transaction here: whoever subscribes between the two has the kept message.
        return self.pipeline_publish_message(message, expire, transaction=False)

    def pipeline_publish_message(
        self, message: Message, expire: int | None = None, transaction: bool = True
    ) -> int:
        """As `publish_message`, by default within MULTI and EXEC, so that all channels get it or none."""
        payload, seconds = _checked_message(message), self._seconds(expire)
        if not self._publishers or not self._admit(payload, seconds):
            return 0
        pipeline = self._connection.pipeline(transaction=transaction)
        published = []
        for index, channel in enumerate(sorted(self._publishers)):
            # Kept first: a client that connects between the two finds it, and the other way round it would not.
            if seconds > 0:
                # By its name: redis-py warns of its own method, and SET is not what the contract says.
                pipeline.execute_command("SETEX", channel, seconds, payload)
            pipeline.publish(channel, payload)
            published.append(index * 2 + 1 if seconds > 0 else index)
        replies = pipeline.execute()
        return sum(replies[index] for index in published)

    def _admit(self, payload: bytes, seconds: int) -> bool:
        """Returns whether the message goes to Redis; in a test run it does not."""
        return True

    async def apublish_message(self, message: Message, expire: int | None = None) -> int:
        """As `publish_message`, for async views.

        Runs in a thread, over the same pool: a pool of asyncio connections would belong to one event loop, and
        Django makes new ones.
        """
        return await sync_to_async(self.publish_message, thread_sensitive=False)(message, expire)

    def publish_message_on_commit(
        self, message: Message, expire: int | None = None, using: str | None = None
    ) -> None:
        """Publishes once the transaction of the database `using` is committed, at once if there is none.

        The arguments are checked at once. If the transaction is rolled back, nothing is published.
        """
        payload, seconds = _checked_message(message), self._seconds(expire)
        transaction.on_commit(lambda: self.publish_message(payload, seconds) and None, using=using)

    def publish_json(self, value: Any, expire: int | None = None) -> int:
        """As `publish_message`, with the value as JSON."""
        return self.publish_message(RedisMessage.json(value), expire)

    async def apublish_json(self, value: Any, expire: int | None = None) -> int:
        """As `publish_json`, for async views."""
        return await self.apublish_message(RedisMessage.json(value), expire)

    @staticmethod
    def get_prefix() -> str:
        """Returns WS4REDIS_PREFIX with its colon, or an empty text."""
        prefix = settings.WS4REDIS_PREFIX
        return f"{prefix}:" if prefix else ""

    def _seconds(self, expire: int | None) -> int:
        if expire is None:
            expire = self._expire
        if expire is None:
            return 0
        if isinstance(expire, bool) or not isinstance(expire, int):
            raise WrongArgument(f"expire must be an int (seconds) or None, not {type(expire).__name__}")
        return expire

    def _get_message_channels(
        self,
        request: HttpRequest | None = None,
        facility: str = "{facility}",
        broadcast: bool = False,
        groups: Any = (),
        users: Any = (),
        sessions: Any = (),
    ) -> list[str]:
        if isinstance(facility, Promise):
            facility = str(facility)
        if not isinstance(facility, str):
            raise WrongArgument(f"facility must be a str, not {type(facility).__name__}")
        if not isinstance(broadcast, bool):
            raise WrongArgument(f"broadcast must be True or False, not {type(broadcast).__name__}")
        names: list[tuple[str, str | None]] = [("broadcast", None)] if broadcast else []
        for argument, audience, given, of_request in (
            ("groups", "group", groups, _own_groups),
            ("users", "user", users, _own_user),
            ("sessions", "session", sessions, _own_session),
        ):
            names += [(audience, name) for name in _names(argument, given, request, of_request)]
        return [self.channel(audience, name, facility) for audience, name in names]

    def channel(self, audience: str, name: str | None, facility: str) -> str:
        """Returns `[PREFIX:]AUDIENCE[:NAME]:FACILITY`, which is the channel and the key of the kept message."""
        middle = audience if name is None else f"{audience}:{name}"
        return f"{self.get_prefix()}{middle}:{facility}"


def user_name(user: Any) -> str | None:
    """Returns the user's name, or None for a user without: USERNAME_FIELD may be null, and is "" for AnonymousUser."""
    name = user.get_username()
    return str(name) or None if name is not None else None


def is_authenticated(request: Any) -> bool:
    """Returns whether somebody is logged in."""
    user = getattr(request, "user", None)
    return user is not None and bool(user.is_authenticated)


def _checked_message(message: Any) -> RedisMessage:
    if isinstance(message, RedisMessage):
        return message
    if isinstance(message, (str, bytes, bytearray, Promise)):
        made = RedisMessage(message)
        if made is None:
            raise WrongArgument(
                "message is the text of WS4REDIS_HEARTBEAT, which browsers would take for a heartbeat"
            )
        return made
    hint = ": RedisMessage() gives None for the heartbeat and for unknown types" if message is None else ""
    raise WrongArgument(
        f"message must be a RedisMessage, str or bytes, not {type(message).__name__}{hint}"
        + ("; see publish_json" if isinstance(message, (dict, list)) else "")
    )


def _names(argument: str, given: Any, request: Any, of_request: Any) -> list[str]:
    if given is False or given is None:
        return []
    if given is True:
        warn(f"{argument}=True is deprecated: write {argument}=[SELF]", DeprecationWarning, stacklevel=5)
        # As ever: for nobody in particular it means nobody.
        return of_request(argument, request) if _knows(argument, request) else []
    if isinstance(given, str):
        warn(f"{argument} should be a list: write {argument}=[{given!r}]", DeprecationWarning, stacklevel=5)
        return [_not_empty(argument, given)]
    if isinstance(given, (bytes, bytearray, Mapping)) or not isinstance(given, Iterable):
        raise WrongArgument(f"{argument} must be a list of names, not {type(given).__name__}")
    names: list[str] = []
    for item in given:
        if item is SELF:
            names += of_request(argument, request)
        else:
            names.append(_not_empty(argument, _name(argument, item)))
    return names


def _not_empty(argument: str, name: str) -> str:
    # All without a name would share one channel.
    if not name:
        raise WrongArgument(f"{argument} must not hold empty names")
    return name


def _name(argument: str, item: Any) -> str:
    if isinstance(item, str):
        return item
    if isinstance(item, bool):
        raise WrongArgument(f"{argument} must hold names, not bool")
    if isinstance(item, (int, UUID, Promise)):
        # Primary keys, for gateways with `session.user = "pk"`, and translated names.
        return str(item)
    if argument == "users" and hasattr(item, "get_username"):
        return user_name(item) or ""
    if argument == "groups" and isinstance(getattr(item, "name", None), str):
        return str(item.name)
    raise WrongArgument(f"{argument} must hold names, not {type(item).__name__}")


def _knows(argument: str, request: Any) -> bool:
    if argument == "sessions":
        return getattr(getattr(request, "session", None), "session_key", None) is not None
    return is_authenticated(request) and (argument == "groups" or user_name(request.user) is not None)


def _require_login(argument: str, request: Any) -> None:
    if request is None:
        raise WrongArgument(f"{argument} holds SELF, which needs request: RedisPublisher(request=request, …)")
    if not is_authenticated(request):
        raise WrongArgument(f"{argument} holds SELF, but nobody is logged in at this request")


def _own_user(argument: str, request: Any) -> list[str]:
    _require_login(argument, request)
    name = user_name(request.user)
    if name is None:
        raise WrongArgument(
            f"{argument} holds SELF, but the user of this request has no name, and so no channel"
        )
    return [name]


def _own_groups(argument: str, request: Any) -> list[str]:
    _require_login(argument, request)
    # The list of the session, as the gateway reads it, and without a database query.
    return [name for name in request.session.get(MEMBEROF, []) if name]


def _own_session(argument: str, request: Any) -> list[str]:
    if request is None:
        raise WrongArgument(f"{argument} holds SELF, which needs request: RedisPublisher(request=request, …)")
    if not _knows(argument, request):
        raise WrongArgument(
            f"{argument} holds SELF, but this request has no session key (yet): request.session.create() makes one"
        )
    return [request.session.session_key]
