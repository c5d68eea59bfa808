"""What templates need to connect."""

from __future__ import annotations

import json

from django.http import HttpRequest
from django.utils.safestring import mark_safe

from ws4redis import settings

# As in Django's json_script: what could end a script element.
_ESCAPES = {ord("<"): "\\u003C", ord(">"): "\\u003E", ord("&"): "\\u0026"}


def default(request: HttpRequest) -> dict[str, str]:
    """Returns WEBSOCKET_URI (`wss://example.com/ws/`) and WS4REDIS_HEARTBEAT, a JavaScript literal."""
    scheme = "wss" if request.is_secure() else "ws"
    heartbeat = settings.WS4REDIS_HEARTBEAT or None
    return {
        "WEBSOCKET_URI": f"{scheme}://{request.get_host()}{settings.WEBSOCKET_URL}",
        "WS4REDIS_HEARTBEAT": mark_safe(json.dumps(heartbeat).translate(_ESCAPES)),
    }
