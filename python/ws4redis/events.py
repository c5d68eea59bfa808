"""Events of clients, as the gateway writes them to the Redis key of its setting `events.to`."""

from __future__ import annotations

import json
from base64 import b64decode
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any, Final, NamedTuple

CONNECT: Final = "connect"
DISCONNECT: Final = "disconnect"
USER: Final = "user"
ONLINE: Final = "online"
OFFLINE: Final = "offline"
MESSAGE: Final = "message"
CLIENT_EVENT: Final = "event"
NODE: Final = "node"

STREAM: Final = "stream"
LIST: Final = "list"


class MalformedEvent(ValueError):
    """The text is not an event of the gateway."""


class EventsKey(NamedTuple):
    """The Redis key that events are read from: its kind, `stream` or `list`, and its name."""

    kind: str
    name: str

    @classmethod
    def parse(cls, text: object) -> EventsKey:
        """Parse a value of `WS4REDIS_EVENTS`.

        Raises:
            ValueError: The text has another form, or names a channel.
        """
        kind, _, name = text.partition(":") if isinstance(text, str) else ("", "", "")
        if kind in (STREAM, LIST) and name:
            return cls(kind, name)
        if kind == "channel":
            raise ValueError(
                "a worker cannot read a channel: two workers would handle each event twice, and events that are "
                "published while no worker runs would be lost. Use stream:KEY, here and in the gateway's events.to"
            )
        raise ValueError("it must be stream:KEY or list:KEY, like the gateway's events.to")


@dataclass(frozen=True, repr=False)
class Event:
    """An event of a client or a gateway. Attributes that its type or dialect lacks are None or empty.

    Attributes:
        type: `connect`, `disconnect`, `user`, `online`, `offline`, `message`, `event`, `node`, or one of a newer
            gateway.
        dialect: `relay` for WebSockets and event streams, `live` for those of version 2, `socket_io` for Socket.IO.
        node: ID of the gateway process, 32 hexadecimal digits; it changes at each start.
        user: The user's name as in channels, None for an anonymous visitor.
        sid: Public ID of the connection.
        time: Seconds since 1970, by the gateway's clock.
        facility: Name of the facility.
        audiences: Audiences of a message, such as `broadcast`, `user:john`, `group:staff` or `session`.
        data: Payload of a message: str, or bytes if it was binary.
        namespace: Namespace of Socket.IO.
        event: Name of a Socket.IO event.
        args: Arguments of a Socket.IO event; binary ones are bytes.
        id: Number of a Socket.IO event whose client requests an acknowledgement.
        auth: The fields of the client's auth object that the gateway's settings select.
        reason: Why a connection ended.
        state: `start` or `stop` of a gateway process.
        raw: The whole JSON object.
    """

    type: str
    dialect: str | None = None
    node: str | None = None
    user: str | None = None
    sid: str | None = None
    time: float | None = None
    facility: str | None = None
    audiences: tuple[str, ...] = ()
    data: str | bytes | None = None
    namespace: str | None = None
    event: str | None = None
    args: tuple[Any, ...] = ()
    id: int | None = None
    auth: Mapping[str, Any] | None = None
    reason: str | None = None
    state: str | None = None
    raw: Mapping[str, Any] = field(default_factory=dict, compare=False)

    def __repr__(self) -> str:
        """Return the class with the attributes that are not empty, except `raw`."""
        named = ((one.name, getattr(self, one.name)) for one in fields(self) if one.name != "raw")
        shown = ", ".join(f"{name}={value!r}" for name, value in named if value not in (None, ()))
        return f"Event({shown})"

    @classmethod
    def from_json(cls, text: str | bytes) -> Event:
        """Parse an event. Unknown types and fields are accepted.

        Raises:
            MalformedEvent: The text is not a JSON object, a field has a wrong type, or binary data is damaged.
        """
        try:
            raw = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise MalformedEvent(f"not JSON: {error}") from None
        if not isinstance(raw, dict):
            raise MalformedEvent("not a JSON object")
        given = {
            name: _typed(raw, name, kinds) for name, kinds in _FIELDS.items() if raw.get(name) is not None
        }
        if not given.get("type"):
            raise MalformedEvent("no type")
        arguments = given.pop("args", [])
        if raw.get("binary") is True:
            if "data" in given:
                given["data"] = _decoded(given["data"])
            arguments = _filled(arguments)
        audiences = tuple(given.pop("audiences", ()))
        return cls(**given, audiences=audiences, args=tuple(arguments), raw=raw)


_FIELDS: Final[Mapping[str, Any]] = {
    **dict.fromkeys(
        (
            "type",
            "dialect",
            "node",
            "user",
            "sid",
            "facility",
            "data",
            "namespace",
            "event",
            "reason",
            "state",
        ),
        str,
    ),
    "time": (int, float),
    "id": int,
    "auth": dict,
    "args": list,
    "audiences": list,
}


def _typed(raw: Mapping[str, Any], name: str, kinds: Any) -> Any:  # noqa: ANN401 - any value of JSON
    value = raw[name]
    if isinstance(value, bool) or not isinstance(value, kinds):
        raise MalformedEvent(f"{name} has a wrong type: {type(value).__name__}")
    return value


def _decoded(text: object) -> bytes:
    if not isinstance(text, str):
        raise MalformedEvent(f"binary data has a wrong type: {type(text).__name__}")
    try:
        return b64decode(text, validate=True)
    except ValueError as error:
        raise MalformedEvent(f"binary data is not base64: {error}") from None


def _filled(form: list[Any]) -> list[Any]:
    """Return the arguments of `[[arguments with placeholders], base64, …]`."""
    if not form:
        return []
    arguments, *texts = form
    if not isinstance(arguments, list):
        raise MalformedEvent("binary arguments do not begin with a list")
    attachments = [_decoded(text) for text in texts]

    def fill(value: object) -> object:
        if isinstance(value, list):
            return [fill(item) for item in value]
        if not isinstance(value, dict):
            return value
        if value.get("_placeholder") is not True:
            return {key: fill(item) for key, item in value.items()}
        number = value.get("num")
        if isinstance(number, bool) or not isinstance(number, int) or not 0 <= number < len(attachments):
            raise MalformedEvent("a placeholder has no attachment")
        return attachments[number]

    try:
        return [fill(argument) for argument in arguments]
    except RecursionError:
        raise MalformedEvent("arguments are nested too deeply") from None
