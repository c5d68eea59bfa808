"""Template variables that a page needs to connect."""

from __future__ import annotations

import json
import logging
from functools import cache

from django.http import HttpRequest
from django.utils.safestring import mark_safe

from ws4redis import settings

log = logging.getLogger("ws4redis")
# Characters that could end a script element, escaped as Django's json_script does.
_ESCAPES = {ord("<"): "\\u003C", ord(">"): "\\u003E", ord("&"): "\\u0026"}


def default(request: HttpRequest) -> dict[str, str]:
    """Return the variables `WEBSOCKET_URI` and `WS4REDIS_HEARTBEAT`.

    Returns:
        `WEBSOCKET_URI`: the address, as in `wss://example.com/ws/`.
        `WS4REDIS_HEARTBEAT`: a JavaScript literal, a string or `null`.
    """
    scheme = "wss" if request.is_secure() else "ws"
    if scheme == "ws" and request.headers.get("X-Forwarded-Proto") == "https":
        _warn_of_lost_https()
    return {
        "WEBSOCKET_URI": f"{scheme}://{request.get_host()}{settings.WEBSOCKET_URL}",
        "WS4REDIS_HEARTBEAT": mark_safe(json.dumps(settings.heartbeat_text()).translate(_ESCAPES)),
    }


@cache
def _warn_of_lost_https() -> None:
    """Log once per process."""
    log.warning(
        "X-Forwarded-Proto says https, and Django takes the request for http: WEBSOCKET_URI begins with ws://, which browsers "
        "block on https pages. Set SECURE_PROXY_SSL_HEADER = ('HTTP_X_FORWARDED_PROTO', 'https')"
    )
