"""The loop of django-websocket-redis for uWSGI, as a stub that needs neither uWSGI nor gevent."""

from ws4redis.websocket import WebSocket
from ws4redis.wsgi_server import WebsocketWSGIServer

__all__ = ["uWSGIWebsocket", "uWSGIWebsocketServer"]


class uWSGIWebsocket(WebSocket):  # noqa: N801 - the name that sites import
    """A WebSocket of uWSGI. Deprecated: each method raises `WebSocketError` with the cure."""

    def __init__(self) -> None:
        """Refuse.

        Raises:
            WebSocketError: Always, with the cure.
        """
        super().__init__(None)


class uWSGIWebsocketServer(WebsocketWSGIServer):  # noqa: N801 - the name that sites import
    """The loop for uWSGI. Deprecated: it answers each request with 501 and the cure."""
