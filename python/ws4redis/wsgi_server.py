"""The server loops of django-websocket-redis, as stubs: a WSGI application that answers with the cure.

A `wsgi.py` that still dispatches to a loop can be imported, so the site goes on working.
"""

from __future__ import annotations

import logging
from http import HTTPStatus
from importlib import import_module
from typing import TYPE_CHECKING, Any, NoReturn

from django.conf import settings as django_settings
from django.contrib.auth import get_user
from django.utils.functional import SimpleLazyObject

from ws4redis.exceptions import HandshakeError, UpgradeRequiredError, WebSocketError
from ws4redis.subscriber import RedisSubscriber

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from django.http import HttpRequest

__all__ = ["HandshakeError", "UpgradeRequiredError", "WebSocketError", "WebsocketWSGIServer"]

log = logging.getLogger("ws4redis")

CURE = (
    "This server has no WebSockets any more: the ws4redis gateway serves them. Start it with `manage.py ws4redis` or as a "
    "service, let the proxy pass WEBSOCKET_URL to it, and restore the site's own WSGI application; "
    '"Moving" in docs/django.md has the steps.'
)


class WebsocketWSGIServer:
    """A loop of django-websocket-redis. Deprecated: it answers each request with 501 and the cure."""

    possible_channels: list[str] = RedisSubscriber.subscription_channels + RedisSubscriber.publish_channels

    def __init__(self, redis_connection: object = None) -> None:
        """Prepare. The connection is not used.

        Args:
            redis_connection: Ignored.
        """
        self._is_logged = False

    @property
    def websockets(self) -> set[Any]:
        """The open WebSockets: none."""
        return set()

    def __call__(self, environ: dict[str, Any], start_response: Callable[..., object]) -> Iterable[bytes]:
        """Answer with 501. The first request is logged as an error."""
        if not self._is_logged:
            self._is_logged = True
            log.error("WebSocket refused with 501. %s", CURE)
        body = CURE.encode()
        headers = [("Content-Type", "text/plain; charset=utf-8"), ("Content-Length", str(len(body)))]
        start_response(f"{HTTPStatus.NOT_IMPLEMENTED.value} {HTTPStatus.NOT_IMPLEMENTED.phrase}", headers)
        return [body]

    def assure_protocol_requirements(self, environ: dict[str, Any]) -> None:
        """Raise `HandshakeError` if a request cannot become a WebSocket."""
        if environ.get("REQUEST_METHOD") != "GET":
            raise HandshakeError("the method must be GET")
        if environ.get("SERVER_PROTOCOL") != "HTTP/1.1":
            raise HandshakeError("the protocol must be HTTP/1.1")
        if environ.get("HTTP_UPGRADE", "").lower() != "websocket":
            raise HandshakeError("the client does not upgrade to a websocket")

    def process_request(self, request: HttpRequest) -> None:
        """Set `request.session` and `request.user` by the session cookie; None without one."""
        unknown: Any = request
        unknown.session = unknown.user = None
        key = request.COOKIES.get(django_settings.SESSION_COOKIE_NAME)
        if key is not None:
            unknown.session = import_module(django_settings.SESSION_ENGINE).SessionStore(key)
            unknown.user = SimpleLazyObject(lambda: get_user(request))

    def process_subscriptions(self, request: HttpRequest) -> tuple[list[str], bool]:
        """Return the flags in the query of a request, and whether `echo` is one of them."""
        names = [name.strip().lower() for name in request.GET]
        return [name for name in names if name in self.possible_channels], "echo" in names

    def upgrade_websocket(self, environ: dict[str, Any], start_response: Callable[..., object]) -> NoReturn:
        """Refuse.

        Raises:
            HandshakeError: Always, with the cure.
        """
        raise HandshakeError(CURE)

    def select(self, rlist: object, wlist: object, xlist: object, timeout: float | None = None) -> NoReturn:
        """Refuse.

        Raises:
            WebSocketError: Always, with the cure.
        """
        raise WebSocketError(CURE)
