"""The exceptions of django-websocket-redis. This package raises none of them; sites name them in `except` clauses."""

from django.http import BadHeaderError


class WebSocketError(OSError):
    """A WebSocket failed."""


class FrameTooLargeException(WebSocketError):
    """A frame was too large."""


class HandshakeError(BadHeaderError):
    """A handshake was invalid."""


class UpgradeRequiredError(HandshakeError):
    """A handshake had no supported version."""
