"""A WebSocket handshake with the site's own Origin, for `manage.py ws4redis_doctor`."""

from __future__ import annotations

import base64
import hashlib
import secrets
from dataclasses import dataclass
from http.client import HTTPConnection, HTTPException, HTTPSConnection
from typing import Final
from urllib.parse import quote, urlsplit

from django.conf import settings as django_settings

from ws4redis import settings

TIMEOUT_SECONDS: Final = 5.0
# RFC 6455, 1.3.
GUID: Final = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
# A facility that no page uses. Rules of the site may refuse it, as any that they do not name.
FACILITY: Final = "ws4redis-doctor"
# How the gateway answers where its `[[access]]` rules admit no visitor like this one.
RULES_REFUSE: Final = "403: the site's access rules do not allow this"
MAX_TEXT: Final = 300


@dataclass(frozen=True)
class Handshake:
    """The result of a handshake.

    Attributes:
        url: The address.
        problem: What is wrong, with its cure. None: the WebSocket was opened.
    """

    url: str
    problem: str | None

    @property
    def is_refused_by_rules(self) -> bool:
        """Whether the site's rules for the facility refused the page, which says nothing about its Origin."""
        return self.problem is not None and self.problem.endswith(RULES_REFUSE)


def attempt(site: str, session_key: str | None, facility: str = FACILITY) -> Handshake:
    """Open a WebSocket as a page of the site does, and close it.

    Args:
        site: Address of the site as in a browser, such as https://www.example.com.
        session_key: Value of the session cookie; None: no cookie.
        facility: The facility that the page connects to.
    """
    try:
        parts = urlsplit(site if "://" in site else f"http://{site}")
    except ValueError:
        parts = urlsplit("")
    secure = parts.scheme == "https"
    path = f"{settings.WEBSOCKET_URL}{quote(facility)}?subscribe-broadcast"
    url = f"{'wss' if secure else 'ws'}://{parts.netloc}{path}"
    if parts.scheme not in ("http", "https") or not parts.hostname:
        return Handshake(
            site, "this is no address of a site; write for example --site https://www.example.com"
        )
    key = base64.b64encode(secrets.token_bytes(16)).decode()
    headers = {
        "Host": parts.netloc,
        "Origin": f"{parts.scheme}://{parts.netloc}",
        "Connection": "Upgrade",
        "Upgrade": "websocket",
        "Sec-WebSocket-Version": "13",
        "Sec-WebSocket-Key": key,
    }
    if session_key is not None:
        headers["Cookie"] = f"{django_settings.SESSION_COOKIE_NAME}={session_key}"
    kind = HTTPSConnection if secure else HTTPConnection
    try:
        connection = kind(parts.hostname, parts.port, timeout=TIMEOUT_SECONDS)
        try:
            connection.request("GET", path, headers=headers)
            response = connection.getresponse()
            text = "" if response.status == 101 else response.read(MAX_TEXT).decode("utf-8", "replace")
            accepted = response.getheader("Sec-WebSocket-Accept", "")
        finally:
            connection.close()
    except (OSError, HTTPException, ValueError) as error:
        return Handshake(url, f"no answer: {error or type(error).__name__}")
    digest = base64.b64encode(hashlib.sha1(key.encode() + GUID).digest()).decode()
    if response.status == 101 and accepted == digest:
        return Handshake(url, None)
    return Handshake(url, f"the answer is {response.status}: {_meaning(response.status, text)}")


def _meaning(status: int, text: str) -> str:
    said = "".join(char for char in " ".join(text.split()) if char.isprintable())
    if status == 404 or said.startswith("<"):
        return f"Django or another server answers there, no gateway; let the proxy pass {settings.WEBSOCKET_URL} to it"
    return said or "the answer has no text"
