"""The WebSocket class of django-websocket-redis, as a stub: the gateway speaks the protocol."""

from __future__ import annotations

from typing import Any, NoReturn

from ws4redis.exceptions import FrameTooLargeException, WebSocketError
from ws4redis.utf8validator import Utf8Validator

__all__ = ["FrameTooLargeException", "Header", "Stream", "Utf8Validator", "WebSocket", "WebSocketError"]


class WebSocket:
    """A WebSocket of a loop. Deprecated: there are none in a Django process."""

    OPCODE_CONTINUATION = 0x0
    OPCODE_TEXT = 0x1
    OPCODE_BINARY = 0x2
    OPCODE_CLOSE = 0x8
    OPCODE_PING = 0x9
    OPCODE_PONG = 0xA

    def __init__(self, wsgi_input: Any) -> None:  # noqa: ANN401 - unused
        """Refuse.

        Raises:
            WebSocketError: Always, with the cure.
        """
        self.send(wsgi_input)

    def send(self, message: Any, binary: bool | None = None) -> NoReturn:  # noqa: ANN401 - unused
        """Refuse.

        Raises:
            WebSocketError: Always, with the cure.
        """
        raise WebSocketError(
            "a Django process has no WebSockets: publish with RedisPublisher, and the gateway sends it to browsers"
        )


class Stream(WebSocket):
    """The connection of a `WebSocket`. Deprecated as that is."""


class Header(WebSocket):
    """The header of a frame. Deprecated as `WebSocket` is."""
