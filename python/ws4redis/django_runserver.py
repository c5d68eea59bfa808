"""The loop of django-websocket-redis for `runserver`, as a stub around the site's own WSGI application.

`WSGI_APPLICATION = "ws4redis.django_runserver.application"` still serves the site.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from django.core.servers.basehttp import ServerHandler, WSGIRequestHandler, run
from django.core.wsgi import get_wsgi_application

from ws4redis import settings
from ws4redis.wsgi_server import WebsocketWSGIServer

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

__all__ = ["ServerHandler", "WSGIRequestHandler", "WebsocketRunServer", "application", "run"]


class WebsocketRunServer(WebsocketWSGIServer):
    """The loop for `runserver`. Deprecated: it answers each request with 501 and the cure."""


_django_app = get_wsgi_application()
_websocket_app = WebsocketRunServer()


def application(environ: dict[str, Any], start_response: Callable[..., object]) -> Iterable[bytes]:
    """Serve the site; requests below `WEBSOCKET_URL` get 501 and the cure."""
    if environ.get("PATH_INFO", "").startswith(settings.WEBSOCKET_URL):
        return _websocket_app(environ, start_response)
    return _django_app(environ, start_response)
