"""The server side of `manage.py runserver` with a gateway: which connections are the gateway's, and its settings."""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import logging
import os
import re
import secrets
import signal
import socket
import tempfile
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Final
from urllib.parse import urlsplit

import redis
from django.conf import settings as django_settings
from django.core.handlers.exception import convert_exception_to_response
from django.core.handlers.wsgi import WSGIRequest
from django.core.servers.basehttp import WSGIRequestHandler, WSGIServer
from django.core.signals import request_started
from django.urls import NoReverseMatch, resolve, reverse

from ws4redis import connection, gateway_keeper, gateway_settings, session_engine, settings, views
from ws4redis.redis_urls import masked

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from ws4redis.gateway_settings import GatewaySettings

# The environment variable in which the process that reloads passes the socket and the secret to the server process.
VARIABLE: Final = "DJANGO_WS4REDIS_KEEPER"
IDENTITY_PATH: Final = "/.ws4redis/identity/"
# Paths of other clients, by the setting that turns them on.
MOUNTS: Final = {
    "socketio.enabled": ("socketio.path", "/socket.io/"),
    "socketio.messenger.enabled": ("socketio.messenger.path", "/websocket/"),
    "socketio.yunity.enabled": ("socketio.yunity.path", "/socket/"),
}
# Settings that the embedded store cannot serve.
NEEDS_REDIS: Final = ("events.to", "presence")

MAX_METHOD_BYTES: Final = 20
PEEK_BYTES: Final = 4096
PEEK_SECONDS: Final = 10.0
PEEK_PAUSE_SECONDS: Final = 0.01
PROBE_SECONDS: Final = 1.0

log = logging.getLogger("django.server")


class KeeperLink:
    """The server process' end of the socket pair.

    Attributes:
        secret: What the gateway sends to the identity view of this run.
    """

    def __init__(self, channel: socket.socket, secret: str) -> None:
        """Take the socket."""
        self._channel = channel
        self.secret = secret

    @classmethod
    def from_environment(cls) -> KeeperLink | None:
        """Return the link of a process that the autoreloader has started, or None."""
        given = os.environ.pop(VARIABLE, None)
        if given is None:
            return None
        descriptor, _, secret = given.partition(":")
        os.set_inheritable(int(descriptor), False)
        link = cls(socket.socket(fileno=int(descriptor)), secret)
        threading.Thread(target=link._end_with_parent, name="ws4redis-parent", daemon=True).start()
        return link

    def as_variable(self) -> str:
        """Return the value of the environment variable for a child process."""
        return f"{self._channel.fileno()}:{self.secret}"

    def send_settings(self, binary: Path, text: str, path: str) -> None:
        """Have the gateway run with these settings; it goes on if they are the same.

        Args:
            binary: The gateway's.
            text: The settings file.
            path: `websocket_url`.

        Raises:
            OSError: The keeper has ended.
        """
        # Without a name, since it has secrets.
        with tempfile.TemporaryFile() as file:
            file.write(json.dumps({"binary": str(binary), "settings": text, "path": path}).encode())
            file.flush()
            self._send(gateway_keeper.SETTINGS, file.fileno())

    def send_client(self, client: socket.socket) -> None:
        """Pass a connection on, from which nothing has been read.

        Raises:
            OSError: The keeper has ended.
        """
        self._send(gateway_keeper.CLIENT, client.fileno())

    def _send(self, kind: bytes, descriptor: int) -> None:
        # One byte is sent as a whole, so threads need no lock.
        socket.send_fds(self._channel, [kind], [descriptor])

    def _end_with_parent(self) -> None:
        # A site may have called socket.setdefaulttimeout.
        self._channel.settimeout(None)
        # The keeper never sends anything; this is the end of its process. It is an error if something was on its way to it.
        with contextlib.suppress(OSError):
            self._channel.recv(1)
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(2)
        os._exit(1)


def new_secret() -> str:
    """Return a secret for one run."""
    return secrets.token_urlsafe(24)


# ---- Connections -----------------------------------------------------------------------------------------------------


class HandedOver(Exception):
    """The connection belongs to the gateway by now."""


class _RequestStart(io.RawIOBase):
    """A socket's stream that looks at the beginning of each request before it is read."""

    def __init__(self, raw: io.RawIOBase, handler: RequestHandler) -> None:
        self._raw = raw
        self._handler = handler
        self.is_at_start = False

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int | None:  # noqa: ANN401 - a buffer, which Python 3.9 cannot name
        # Only called when nothing is buffered.
        if self.is_at_start:
            self.is_at_start = False
            self._handler.hand_over_if_for_gateway()
        return self._raw.readinto(buffer)

    def close(self) -> None:
        self._raw.close()
        super().close()


class RequestHandler(WSGIRequestHandler):
    """Django's handler, which passes the connection on if the next request is for the gateway."""

    server: DevelopmentServer

    def setup(self) -> None:
        """Put the look at the beginning below the buffer."""
        super().setup()
        self._start = _RequestStart(self.rfile.detach(), self)
        self.rfile = io.BufferedReader(self._start)  # type: ignore[assignment]

    def handle(self) -> None:
        """Serve requests until one is for the gateway."""
        try:
            super().handle()
        except HandedOver:
            self.close_connection = True

    def handle_one_request(self) -> None:
        """Serve one request."""
        self._start.is_at_start = True
        super().handle_one_request()

    def log_message(self, format: str, *arguments: Any) -> None:  # noqa: A002, ANN401 - as in http.server
        """Log a request, except for those of the gateway."""
        if not getattr(self, "path", "").startswith(IDENTITY_PATH):
            super().log_message(format, *arguments)

    def hand_over_if_for_gateway(self) -> None:
        """Wait for the beginning of a request, and pass the connection on if the path is the gateway's.

        Raises:
            HandedOver: It is.
        """
        # typeshed takes the request of a handler for Django's.
        connection: Any = self.connection
        line = peek_at_request(connection, self.server.gateway_paths)
        if line is None:
            return
        log.info('"%s" is for the gateway', line, extra={"server_time": self.log_date_time_string()})
        self.server.hand_over(connection)
        raise HandedOver


class DevelopmentServer(WSGIServer):
    """Django's development server with a gateway on the same port."""

    link: ClassVar[KeeperLink]
    # Called with the server when its port is known; returns the paths of the gateway.
    on_listening: ClassVar[Callable[[DevelopmentServer], tuple[str, ...]]]

    def __init__(self, address: tuple[str, int], handler: type, **options: Any) -> None:  # noqa: ANN401
        """Listen, and have the gateway started."""
        super().__init__(address, RequestHandler, **options)
        self._handed_over: set[int] = set()
        self.gateway_paths = type(self).on_listening(self)

    def hand_over(self, client: socket.socket) -> None:
        """Pass a connection on."""
        self.link.send_client(client)
        self._handed_over.add(id(client))

    def shutdown_request(self, request: Any) -> None:  # noqa: ANN401 - as in socketserver
        """Close the connection; only this process' descriptor, if the gateway has it."""
        if id(request) in self._handed_over:
            self._handed_over.discard(id(request))
            self.close_request(request)
        else:
            super().shutdown_request(request)


def peek_at_request(connection: socket.socket, paths: tuple[str, ...]) -> str | None:
    """Wait for the next request without reading it; return its first line if its path is one of these, else None."""
    prefixes = [path.encode() for path in paths]
    until = time.monotonic() + PEEK_SECONDS
    while True:
        start = connection.recv(PEEK_BYTES, socket.MSG_PEEK)
        method, space, target = start.partition(b" ")
        if space and any(target.startswith(prefix) for prefix in prefixes):
            return start.partition(b"\r\n")[0].decode("latin-1")
        may_follow = any(prefix.startswith(target) for prefix in prefixes)
        is_undecided = may_follow if space else b"\n" not in start and len(start) < MAX_METHOD_BYTES
        if not start or not is_undecided or time.monotonic() > until:
            return None
        time.sleep(PEEK_PAUSE_SECONDS)


# ---- Settings --------------------------------------------------------------------------------------------------------


def settings_for(address: str, port: int, secret: str) -> tuple[GatewaySettings, str]:
    """Return the settings of the gateway for development, and what its Redis is.

    Args:
        address: The address on which Django listens.
        port: Its port.
        secret: Of the identity view.

    Raises:
        ValueError: A setting of Django is unusable.
    """
    derived = gateway_settings.derive()
    derived, store = _with_store(derived)
    defaults: dict[str, Any] = {
        "demo.enabled": "off",
        "server.drain_seconds": 0,
        "server.shards": 1,
    }
    if django_settings.USE_X_FORWARDED_HOST:
        defaults["server.trusted_proxies"] = ["unix"]
    chosen = {name: value for name, value in defaults.items() if name not in derived.values}
    return _with_identity(derived.updated("runserver", chosen), address, port, secret), store


def _with_store(derived: GatewaySettings) -> tuple[GatewaySettings, str]:
    url = str(derived.get("redis.url"))
    if urlsplit(url).scheme not in ("redis", "rediss", "unix"):
        return derived, masked(url)
    about: Any = {}
    try:
        timeouts = {"socket_timeout": PROBE_SECONDS}
        # Not all versions of redis-py know it for unix sockets.
        if not url.startswith("unix:"):
            timeouts["socket_connect_timeout"] = PROBE_SECONDS
        with connection.single_use(url, **timeouts) as client:
            about = client.info("server")
        is_embedded = "embedded_store" in about
    except redis.ConnectionError as error:
        # Its subclasses are answers, such as that a password is missing.
        is_embedded = type(error) is redis.ConnectionError
    except (redis.RedisError, ValueError):
        # It answers, or the gateway says what is wrong with it.
        is_embedded = False
    if not is_embedded:
        return derived, f"Redis at {masked(url)}"
    snapshot = derived.get("embedded.snapshot_file") or snapshot_file()
    owner = about.get("embedded_snapshot")
    # Without a name it is of a gateway that somebody has started by hand, for all projects.
    if owner and snapshot and owner != Path(snapshot).name:
        raise ValueError(
            f"the small Redis at {masked(url)} belongs to runserver of another project ({owner}), whose pages would get the "
            f"messages of this one. Take another port for this project, such as {_own_port()}, in WS4REDIS_CONNECTION and in "
            "LOCATION of CACHES, or start a Redis there"
        )
    local = urlsplit(url).hostname in ("localhost", "127.0.0.1", "::1")
    if not local or urlsplit(url).scheme != "redis" or derived.values["redis.url"].secret:
        return derived, f"Redis at {masked(url)}, which does not answer"
    store = f"no Redis at {masked(url)}; the gateway has a small one there"
    values: dict[str, Any] = {"embedded.enabled": "on"}
    if snapshot:
        values["embedded.snapshot_file"] = str(snapshot)
        store += f", which keeps sessions in {snapshot}"
    else:
        store += ", which loses everything, also sessions, when it ends"
    lost = [name for name in NEEDS_REDIS if name in derived.values]
    if lost:
        needs = "are off, since they need" if len(lost) > 1 else "is off, since it needs"
        store += f"; {' and '.join(lost)} {needs} a real Redis"
    return derived.without(*lost).updated("runserver", values), store


def _own_port() -> int:
    """Return a port for the store of this project, the same each time."""
    return 20_000 + int(_project_digest()[:8], 16) % 10_000


def _project_folder() -> Path:
    return Path(getattr(django_settings, "BASE_DIR", None) or Path.cwd())


def _project_digest() -> str:
    return hashlib.sha256(os.path.abspath(_project_folder()).encode()).hexdigest()[:16]


def snapshot_file() -> Path | None:
    """Return where the embedded store keeps sessions for this project, or None if it cannot keep them."""
    try:
        home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
        folder = home / "ws4redis"
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    except (OSError, RuntimeError):
        return None
    # INFO names the file, and redis-py splits the values of INFO at commas and equals signs.
    name = re.sub(r"[^\w.-]", "_", _project_folder().name)
    return folder / f"{name}-{_project_digest()}.sessions"


def _with_identity(derived: GatewaySettings, address: str, port: int, secret: str) -> GatewaySettings:
    configured = derived.get("auth.callback_url")
    if not configured and (session_engine.describe().obstacle is None or derived.get("auth.jwt.algorithm")):
        return derived
    # Both addresses for all interfaces mean this machine, too.
    host = {"0.0.0.0": "127.0.0.1", "": "127.0.0.1", "::": "::1"}.get(address, address)  # noqa: S104
    host = f"[{host}]" if ":" in host else host
    if configured:
        path = urlsplit(str(configured)).path
        values: dict[str, Any] = {"auth.callback_url": f"http://{host}:{port}{path}"}
        if not derived.get("auth.callback_headers"):
            values["auth.callback_headers"] = [f"Host: {_allowed_host()}"]
        return derived.updated("runserver", values)
    values = {"auth.callback_url": f"http://{host}:{port}{IDENTITY_PATH}", "auth.callback_secret": secret}
    return derived.updated("runserver", values)


def _allowed_host() -> str:
    hosts = [host for host in django_settings.ALLOWED_HOSTS if host != "*"]
    return hosts[0].lstrip(".") if hosts else "localhost"


def paths_of(derived: GatewaySettings) -> tuple[str, ...]:
    """Return the paths that the gateway serves."""
    paths = [str(derived.get("websocket_url"))]
    for enabled, (name, default) in MOUNTS.items():
        if derived.get(enabled):
            found = derived.get(name, default)
            paths += [found] if isinstance(found, str) else found
    return tuple(paths)


# ---- Identity --------------------------------------------------------------------------------------------------------


class WithIdentityView:
    """A WSGI application that answers the gateway's questions for visitors without an entry in the site's urls.py."""

    def __init__(self, application: Callable[..., Iterable[bytes]]) -> None:
        """Wrap the site's application."""
        self._application = application

    def __call__(self, environ: dict[str, Any], start_response: Callable[..., object]) -> Iterable[bytes]:
        """Answer a request."""
        if environ.get("PATH_INFO") != IDENTITY_PATH:
            return self._application(environ, start_response)
        request_started.send(sender=type(self), environ=environ)
        response: Any = convert_exception_to_response(_identity_view())(WSGIRequest(environ))
        content = response.content
        start_response(
            f"{response.status_code} {response.reason_phrase}",
            list(response.items()) + [("Content-Length", str(len(content)))],
        )
        # Ends the request for Django's signals, which close old connections of the database.
        response.close()
        return [content]


def _identity_view() -> Callable[..., Any]:
    """Return the site's own view, if its urls.py includes `ws4redis.urls`."""
    try:
        found: Callable[..., Any] = resolve(reverse("ws4redis:identity")).func
    except NoReverseMatch:
        found = views.IdentityView.as_view()
    return found


def websocket_url_is_usable() -> bool:
    """Return True if the gateway's path leaves some for Django."""
    url = settings.WEBSOCKET_URL
    return isinstance(url, str) and url.startswith("/") and url.endswith("/") and url != "/"
