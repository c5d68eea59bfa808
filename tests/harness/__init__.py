"""Shared by the Python tests: server processes, WebSocket clients, and waiting with a deadline."""

import contextlib
import fcntl
import itertools
import os
import pathlib
import random
import re
import shutil
import socket
import subprocess
import tempfile
import time
import uuid

import pytest
import redis
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect as websocket

DEADLINE = 10
"""Seconds after which a wait fails."""

EMBEDDED_PORT = 6379
"""The embedded store's port."""

# Serializes the suites of several checkouts, which all need port 6379.
LOCK = "/tmp/ws4redis-6379.lock"
LOCK_SECONDS = 600
PORT_SECONDS = 60
PORT_IN_USE = "port 6379 is in use: the embedded store is tested there; stop the Redis on it and try again"

BINARY = os.environ.get("WS4REDIS_BIN") or str(
    pathlib.Path(__file__).parents[2] / "target" / "debug" / "ws4redis"
)


def until(read, wanted, what, deadline=DEADLINE):
    """Polls until `read()` equals `wanted`, or until the predicate `wanted` accepts it; returns the value."""
    accepts_value = wanted if callable(wanted) else lambda value: value == wanted
    end = time.monotonic() + deadline
    while not accepts_value(value := read()):
        assert time.monotonic() < end, f"{what}: after {deadline} s still {value!r}"
        time.sleep(0.01)
    return value


def unique(word="x"):
    """Returns a facility or message that no other test uses."""
    return f"{word}-{uuid.uuid4().hex[:12]}"


# Below the kernel's ephemeral range: no outgoing connection takes a port between its choice and its use.
PORTS = itertools.cycle(random.sample(range(17800, 18000), 200))


def free_port():
    """Returns an unused port of 127.0.0.1."""
    for port in itertools.islice(PORTS, 200):
        with contextlib.suppress(OSError), socket.socket() as probe:
            # As the servers do: connections in TIME_WAIT do not block a port.
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(("127.0.0.1", port))
            return port
    raise AssertionError("all ports of the tests are in use")


def accepts(port, host="127.0.0.1"):
    """Tests whether a server listens on the port."""
    with socket.socket() as probe:
        probe.settimeout(1)
        return probe.connect_ex((host, port)) == 0


def clean_environment(**more):
    """Returns the environment without the variables of ws4redis and Django, plus `more`."""
    ours = ("WS4REDIS_", "WEBSOCKET_URL", "DJANGO_", "RUST_LOG", "PYTHONPATH")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(ours)}
    return kept | {name: str(value) for name, value in more.items()}


class Process:
    """A server process with a directory of its own and its output in a file."""

    def __init__(self, command, env=None, cwd=None):
        self.directory = pathlib.Path(tempfile.mkdtemp(prefix="ws4redis-test-"))
        self.log = self.directory / "output"
        env = dict(env if env is not None else clean_environment(), HOME=str(self.directory))
        with self.log.open("wb") as output:
            self.process = subprocess.Popen(
                [str(word).replace("{directory}", str(self.directory)) for word in command],
                cwd=cwd or self.directory,
                env=env,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
            )

    def output(self):
        return self.log.read_text(errors="replace")

    def wait_until(self, ready, what, deadline=DEADLINE * 2):
        """Waits until `ready()` is true; fails with the output if the process ends before."""
        end = time.monotonic() + deadline
        while True:
            assert self.process.poll() is None, f"{what}: ended with {self.process.returncode}\n{self.output()}"
            with contextlib.suppress(OSError, redis.ConnectionError):
                if ready():
                    return
            if time.monotonic() > end:
                output = self.output()
                self.stop()
                raise AssertionError(f"{what}: not ready after {deadline} s\n{output}")
            time.sleep(0.02)

    def stop(self):
        """Terminates the process, and kills it after the deadline; returns its exit code."""
        self.process.terminate()
        try:
            code = self.process.wait(DEADLINE)
        except subprocess.TimeoutExpired:
            self.process.kill()
            code = self.process.wait(DEADLINE)
        shutil.rmtree(self.directory, ignore_errors=True)
        return code


class RedisServer(Process):
    """A redis-server without persistence, with further options."""

    def __init__(self, *options, port=None):
        self.port = port or free_port()
        command = ["redis-server", "--port", self.port, "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"]
        super().__init__([*command, *options])
        self.url = f"redis://127.0.0.1:{self.port}"
        self.wait_until(lambda: redis.Redis(port=self.port).ping(), "redis-server")


class Gateway(Process):
    """The built gateway, in an empty directory."""

    def __init__(self, listen=None, port=None, file=None, **settings):
        """Starts it; `settings` become environment variables (`prefix`, `redis__url`, …), `file` is a settings file."""
        self.port = port or free_port()
        self.unix = listen
        settings = {"server__drain_seconds": 0, "server__shards": 2} | settings
        variables = {f"WS4REDIS_{name.upper()}": value for name, value in settings.items()}
        variables["WS4REDIS_SERVER__LISTEN"] = listen or f"127.0.0.1:{self.port}"
        command = [BINARY, "--settings", file] if file else [BINARY]
        super().__init__(command, env=clean_environment(**variables))
        # Handshakes are refused with 503 until Redis is connected.
        self.wait_until(lambda: self.handshake("/ws/ready?subscribe-broadcast")[0] == 101, "gateway")

    def url(self, facility, flags="subscribe-broadcast"):
        return f"ws://127.0.0.1:{self.port}/ws/{facility}?{flags}"

    def connect(self, facility, flags="subscribe-broadcast", **options):
        return Client(self.url(facility, flags), **options)

    def dial(self):
        if self.unix is None:
            return socket.create_connection(("127.0.0.1", self.port), DEADLINE)
        connection = socket.socket(socket.AF_UNIX)
        connection.settimeout(DEADLINE)
        connection.connect(self.unix.removeprefix("unix:"))
        return connection

    def handshake(self, target, *headers):
        """Sends an upgrade request for exactly these bytes and closes; returns status, head and body."""
        with self.dial() as connection:
            return handshake(connection, target, *headers)


UPGRADE = (
    "Upgrade: websocket",
    "Connection: Upgrade",
    "Sec-WebSocket-Version: 13",
    "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
)


def handshake(connection, target, *headers, host="127.0.0.1"):
    """Sends an upgrade request on an open connection; returns status, head and, unless it is 101, body."""
    target = target if isinstance(target, bytes) else target.encode()
    lines = [b"GET " + target + b" HTTP/1.1", f"Host: {host}".encode()]
    lines += [line.encode() for line in (*UPGRADE, *headers)]
    connection.sendall(b"\r\n".join(lines) + b"\r\n\r\n")
    response = b""
    while b"\r\n\r\n" not in response:
        piece = connection.recv(65536)
        if not piece:
            raise ConnectionResetError(f"closed after {response!r}")
        response += piece
    head, _, body = response.partition(b"\r\n\r\n")
    status = int(head.split(b" ", 2)[1])
    if status != 101:
        length = int(re.search(rb"(?i)content-length: *(\d+)", head)[1])
        while len(body) < length and (piece := connection.recv(65536)):
            body += piece
    return status, head.decode("latin-1"), body.decode(errors="replace")


class Client:
    """A WebSocket client: the PyPI package `websockets`."""

    def __init__(self, url, **options):
        usual = {"open_timeout": DEADLINE, "close_timeout": 2, "proxy": None, "max_size": None}
        self.socket = websocket(url, **usual | options)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.socket.close()

    def send(self, message):
        self.socket.send(message)

    def receive(self):
        try:
            return self.socket.recv(timeout=DEADLINE)
        except TimeoutError:
            raise AssertionError(f"no message within {DEADLINE} s") from None

    def expect(self, *messages):
        """Expects these messages next: `str` for a text frame, `bytes` for a binary one."""
        for message in messages:
            received = self.receive()
            assert received == message and type(received) is type(message), f"{received!r} instead of {message!r}"

    def expect_nothing_before(self, publish):
        """Expects that no message is in flight: the marker that `publish` sends is the next one."""
        marker = unique("marker")
        publish(marker)
        self.expect(marker)

    def expect_close(self, code):
        """Expects a close with this code; returns the reason."""
        try:
            while True:
                self.socket.recv(timeout=DEADLINE)
        except ConnectionClosed as closed:
            assert closed.rcvd is not None, f"closed without a close frame instead of with {code}"
            assert closed.rcvd.code == code, f"closed with {closed.rcvd!r} instead of {code}"
            return closed.rcvd.reason
        except TimeoutError:
            raise AssertionError(f"not closed within {DEADLINE} s") from None


class PubSubRecorder:
    """Records all publications of a Redis."""

    def __init__(self, store):
        self.store = store
        self.pubsub = store.pubsub(ignore_subscribe_messages=False)
        self.pubsub.psubscribe("*")
        until(lambda: self.pubsub.get_message(timeout=1), lambda message: message and message["type"] == "psubscribe", "PSUBSCRIBE")

    def received(self):
        """Returns the publications since the last call, in order, as pairs of channel and payload."""
        marker = unique("marker")
        self.store.publish(marker, "")
        messages = []
        end = time.monotonic() + DEADLINE
        while True:
            assert time.monotonic() < end, f"no marker; received {messages}"
            message = self.pubsub.get_message(timeout=1)
            if message is None or message["type"] != "pmessage":
                continue
            channel = message["channel"].decode()
            if channel == marker:
                return messages
            # Keyspace events and markers are not publications of a test.
            if not channel.startswith(("marker-", "__key")):
                messages.append((channel, message["data"]))

    def close(self):
        self.pubsub.close()


@contextlib.contextmanager
def embedded_port():
    """Holds port 6379 for one embedded store."""
    # Opening another user's file for creation fails in a sticky directory.
    if not os.path.exists(LOCK):
        pathlib.Path(LOCK).touch()
    descriptor = os.open(LOCK, os.O_RDONLY)
    try:
        end = time.monotonic() + LOCK_SECONDS
        while True:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                assert time.monotonic() < end, f"{LOCK} was held by another run for {LOCK_SECONDS} s"
                time.sleep(0.2)
        until(lambda: accepts(EMBEDDED_PORT), False, PORT_IN_USE, deadline=PORT_SECONDS)
        yield
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def embedded_gateway(**settings):
    """Starts a gateway with its embedded store; ends the test run if that fails, since every test needs it."""
    with contextlib.ExitStack() as stack:
        try:
            stack.enter_context(embedded_port())
            gateway = Gateway(**settings)
        except AssertionError as error:
            pytest.exit(str(error), returncode=1)
        stack.callback(gateway.stop)
        yield gateway
