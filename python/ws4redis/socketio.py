"""The publisher for Socket.IO clients, with the methods of python-socketio's write-only `RedisManager`.

It publishes the JSON of python-socketio 5.15.1 and newer, which the gateway and python-socketio's own servers read.
It does not depend on python-socketio, receives nothing, and therefore requests no acknowledgements.
"""

from __future__ import annotations

import json
from base64 import b64encode
from collections.abc import Iterable, Mapping
from math import isfinite
from typing import Final, Union
from uuid import uuid4

from django.core.serializers.json import DjangoJSONEncoder

from ws4redis import connection, settings, testing
from ws4redis.events import Event
from ws4redis.redis_store import WrongArgument

_NOT_A_LIST: Final = (str, bytes, bytearray, memoryview, Mapping)

# The name of a room or a sid; python-socketio's servers distinguish 42 from "42", the gateway does not.
Room = Union[str, int]
Rooms = Union[Room, Iterable[Room], None]

# Receivers recognise a publisher's messages by it. Gateways remember a limited number of publishers, so all emitters
# share one.
HOST_ID: Final = uuid4().hex


class Emitter:
    """Publish events, room changes and disconnects to Socket.IO clients. An instance is cheap and thread-safe.

    `Emitter().emit("news", {"id": 7}, room="editors")`
    """

    def __init__(self, *, channel: str | None = None) -> None:
        """Select the channel.

        Args:
            channel: Name of the Redis channel, without a prefix, as in the gateway's
                `socketio.redis_manager.channels`. None stands for `WS4REDIS_SOCKETIO_CHANNEL`.

        Raises:
            TypeError: The channel is empty or not a string. The error is a ValueError as well.
        """
        if channel is not None:
            _require_name("channel", channel)
        self._channel = channel

    @property
    def channel(self) -> str:
        """The name of the Redis channel."""
        return str(settings.WS4REDIS_SOCKETIO_CHANNEL) if self._channel is None else self._channel

    def emit(
        self,
        event: str,
        data: object = None,
        *,
        to: Rooms = None,
        room: Rooms = None,
        skip_sid: str | Iterable[str] | None = None,
        namespace: str | None = None,
        callback: None = None,
    ) -> int:
        """Publish an event.

        Only the event and its data are positional: python-socketio's servers and managers order the others
        differently.

        Args:
            event: Name of the event.
            data: The argument of the event. A tuple stands for several arguments, None for none. Lists, dicts and
                nested tuples may contain bytes, bytearrays and memoryviews, which arrive as binary data. Dates,
                decimals, UUIDs and lazy strings are written as Django's JSON does, NaN and infinities as null.
            to: A room, a sid, or an iterable of them; a client in several of them gets the event once. None: all
                clients of the namespace. Empty: nobody, and nothing is published.
            room: The same as `to`, which wins.
            skip_sid: The sid, or an iterable of the sids, of clients that do not get the event.
            namespace: Name of the namespace; None stands for `/`.
            callback: Not supported: a publisher receives no acknowledgements.

        Returns:
            The number of subscribers that received the message: gateways and servers, not browsers.

        Raises:
            TypeError: An argument has a wrong type, a name is empty, the namespace has no leading slash, a callback
                is given, or the data has no JSON form. Nothing has been published. The error is a ValueError as well.
            redis.RedisError: Redis is unreachable or refuses the command. The message may have been published.
        """
        if not isinstance(event, str):
            raise WrongArgument(f"event must be a str, not {type(event).__name__}")
        if callback is not None:
            raise WrongArgument(
                "callback is not supported: a publisher receives no acknowledgements; let the client emit an event"
            )
        rooms = _rooms("room", room) if to is None else _rooms("to", to)
        binary, arguments = _deconstructed(list(data) if isinstance(data, tuple) else [data])
        message = {
            "method": "emit",
            "event": event,
            "data": arguments,
            "binary": binary,
            "namespace": _namespace(namespace),
            "room": rooms,
            "skip_sid": _skipped(skip_sid),
            "callback": None,
            "host_id": HOST_ID,
        }
        payload = _encoded(message)
        # python-socketio's servers log an exception for an empty list.
        return 0 if rooms == [] else self._publish(payload)

    def send(
        self,
        data: object,
        *,
        to: Rooms = None,
        room: Rooms = None,
        skip_sid: str | Iterable[str] | None = None,
        namespace: str | None = None,
        callback: None = None,
    ) -> int:
        """Publish the event `message`. The other parameters and the result are those of `emit`.

        Raises:
            TypeError: As for `emit`.
            redis.RedisError: As for `emit`.
        """
        return self.emit(
            "message", data, to=to, room=room, skip_sid=skip_sid, namespace=namespace, callback=callback
        )

    def disconnect(self, sid: str, namespace: str | None = None) -> int:
        """Disconnect a client from a namespace. It does not reconnect by itself. An unknown sid is ignored.

        Args:
            sid: The sid of the client in this namespace.
            namespace: Name of the namespace; None stands for `/`.

        Returns:
            The number of subscribers that received the message, as for `emit`.

        Raises:
            TypeError: An argument has a wrong type, the sid is empty, or the namespace has no leading slash. Nothing
                has been published. The error is a ValueError as well.
            redis.RedisError: As for `emit`.
        """
        _require_name("sid", sid)
        message = {"method": "disconnect", "sid": sid, "namespace": _namespace(namespace)}
        return self._publish(_encoded({**message, "host_id": HOST_ID}))

    def enter_room(self, sid: str, namespace: str | None, room: Room) -> int:
        """Add a client to a room. An unknown sid is ignored.

        Args:
            sid: The sid of the client in this namespace.
            namespace: Name of the namespace; None stands for `/`.
            room: Name of the room.

        Returns:
            The number of subscribers that received the message, as for `emit`.

        Raises:
            TypeError: An argument has a wrong type, the sid or the room is empty, or the namespace has no leading
                slash. Nothing has been published. The error is a ValueError as well.
            redis.RedisError: As for `emit`.
        """
        return self._publish(_room_change("enter_room", sid, namespace, room))

    def leave_room(self, sid: str, namespace: str | None, room: Room) -> int:
        """Remove a client from a room. Parameters and result are those of `enter_room`.

        Raises:
            TypeError: As for `enter_room`.
            redis.RedisError: As for `emit`.
        """
        return self._publish(_room_change("leave_room", sid, namespace, room))

    def close_room(self, room: Room, namespace: str | None = None) -> int:
        """Remove all clients from a room. They stay connected.

        Args:
            room: Name of the room.
            namespace: Name of the namespace; None stands for `/`.

        Returns:
            The number of subscribers that received the message, as for `emit`.

        Raises:
            TypeError: As for `enter_room`.
            redis.RedisError: As for `emit`.
        """
        message = {"method": "close_room", "room": _room("room", room), "namespace": _namespace(namespace)}
        return self._publish(_encoded({**message, "host_id": HOST_ID}))

    def _publish(self, payload: bytes) -> int:
        channel = testing.isolated(self.channel)
        if testing.intercept([channel], payload, 0):
            return 0
        # Taken at each call: an emitter of a module outlives forks and overridden settings.
        return int(connection.client().publish(channel, payload))


def acknowledge(event: Event, *arguments: object) -> int:
    """Answer a client's event that requests an acknowledgement; only its first answer counts.

    The worker does this with the result of a handler. Call it where the answer is known later, for example in a task.

    Args:
        event: The event, of which the type, `node`, `sid`, `namespace` and `id` matter.
        *arguments: The arguments of the client's callback, with the same values as the data of `Emitter.emit`.

    Returns:
        The number of subscribers that received the message, as for `Emitter.emit`.

    Raises:
        TypeError: The event requests no acknowledgement, or an argument has no JSON form. Nothing has been published.
            The error is a ValueError as well.
        redis.RedisError: As for `Emitter.emit`.
    """
    if event.id is None or event.node is None or event.sid is None:
        raise WrongArgument("the event requests no acknowledgement")
    binary, args = _deconstructed(list(arguments))
    message = {
        "method": "callback",
        "host_id": event.node,
        "sid": event.sid,
        "namespace": _namespace(event.namespace),
        "id": event.id,
        "args": args,
    }
    # python-socketio's own callbacks have no binary form, and no such key.
    return Emitter()._publish(_encoded({**message, "binary": True} if binary else message))


def _room_change(method: str, sid: str, namespace: str | None, room: Room) -> bytes:
    _require_name("sid", sid)
    message = {
        "method": method,
        "sid": sid,
        "room": _room("room", room),
        "namespace": _namespace(namespace),
        "host_id": HOST_ID,
    }
    return _encoded(message)


def _require_name(argument: str, given: object) -> None:
    if not isinstance(given, str):
        raise WrongArgument(f"{argument} must be a str, not {type(given).__name__}")
    if not given:
        raise WrongArgument(f"{argument} must not be empty")


def _namespace(given: str | None) -> str:
    if given is None:
        return "/"
    _require_name("namespace", given)
    if not given.startswith("/"):
        # Servers of python-socketio take the room before the namespace, its managers and this class after it.
        raise WrongArgument(
            f"namespace must begin with a slash, not {given!r}; "
            "enter_room and leave_room take sid, namespace and room in this order"
        )
    return given


def _room(argument: str, given: object) -> Room:
    if isinstance(given, bool) or not isinstance(given, (str, int)):
        raise WrongArgument(f"{argument} must contain names (str or int), not {type(given).__name__}")
    if given == "":
        raise WrongArgument(f"{argument} must not contain empty names")
    return given


def _rooms(argument: str, given: Rooms) -> Room | list[Room] | None:
    if given is None:
        return None
    if isinstance(given, Iterable) and not isinstance(given, _NOT_A_LIST):
        return [_room(argument, item) for item in given]
    return _room(argument, given)


def _skipped(given: str | Iterable[str] | None) -> str | list[str] | None:
    if given is None or isinstance(given, str):
        return given
    if not isinstance(given, Iterable) or isinstance(given, _NOT_A_LIST):
        raise WrongArgument(f"skip_sid must be a sid (str) or a list of sids, not {type(given).__name__}")
    sids = list(given)
    for sid in sids:
        if not isinstance(sid, str):
            raise WrongArgument(f"skip_sid must contain sids (str), not {type(sid).__name__}")
    return sids


class _Deconstruction:
    """Copies values and replaces what JSON lacks: bytes by placeholders, NaN and infinities by null."""

    def __init__(self) -> None:
        self.attachments: list[str] = []
        self.has_lookalike = False

    def copy(self, value: object) -> object:
        if isinstance(value, (bytes, bytearray, memoryview)):
            self.attachments.append(b64encode(bytes(value)).decode("ascii"))
            return {"_placeholder": True, "num": len(self.attachments) - 1}
        if isinstance(value, dict):
            self.has_lookalike = self.has_lookalike or bool(value.get("_placeholder"))
            return {key: self.copy(item) for key, item in value.items()}
        if isinstance(value, (list, tuple)):
            return [self.copy(item) for item in value]
        if isinstance(value, float) and not isfinite(value):
            # JavaScript clients drop their connection at a NaN.
            return None
        return value


def _deconstructed(arguments: list[object]) -> tuple[bool, list[object]]:
    """Return whether there is binary data, and the value of `data` in the message."""
    deconstruction = _Deconstruction()
    try:
        copies = [deconstruction.copy(argument) for argument in arguments]
    except RecursionError:
        raise WrongArgument("data is nested too deeply, or contains itself") from None
    if not deconstruction.attachments:
        return False, copies
    if deconstruction.has_lookalike:
        # Receivers would replace it by an attachment, or drop the message.
        raise WrongArgument("data with bytes must not contain a dict with the key _placeholder")
    return True, [copies, *deconstruction.attachments]


def _encoded(message: Mapping[str, object]) -> bytes:
    try:
        return json.dumps(message, cls=DjangoJSONEncoder).encode("ascii")
    except RecursionError:
        raise WrongArgument("data is nested too deeply") from None
    except (TypeError, ValueError) as error:
        raise WrongArgument(f"data has no JSON form: {error}") from error
