"""The measured servers. Each runs alone on core 0, with a fresh Redis on core 1."""

import contextlib
import dataclasses
import json
import os
import resource
import shutil
import socket
import subprocess
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
TOOLS = HERE / "wsload/target/release"
BUN = HERE / "peers/bun/node_modules/@oven/bun-linux-x64/bin/bun"
CENTRIFUGO = ROOT / "tests/.cache/centrifugo/centrifugo"
SOCKETIOXIDE = ROOT / "tests/.cache/socketioxide/release/peer-socketioxide"
PYTHON_SOCKETIO = ROOT / "tests/.cache/venv-socketio/bin/python"
# Prefix of the generator's session keys; eight digits follow.
SESSION = "benchmark" + "0" * 15
CHANNEL = "broadcast:fac"


class Failed(Exception):
    """A failed measurement; the text is the reason."""


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def listens(port):
    try:
        socket.create_connection(("127.0.0.1", port), 1).close()
        return True
    except OSError:
        return False


FANOUTS = ("F1", "F1w1", "F2r", "F2m", "F3", "F4")
EVERYTHING = (*FANOUTS, "U1", "P1", "P1e", "C1", "C1s", "I1")
SOCKET_IO = ("S1", "S1w1", "S1r", "SU", "SI", "SP")
EMITS = HERE / "peers/emits"


@dataclass
class Server:
    """A measured server: its command, addresses and workloads."""

    name: str
    command: list
    subscribe: str
    publish: str
    user: str = ""
    environment: dict = field(default_factory=dict)
    pub: str = "redis://127.0.0.1:{redis}/" + CHANNEL
    pub_user: str = "redis://127.0.0.1:{redis}/user:{{u}}:fac"
    # The first message of a client after the handshake, and a file with the template around a published payload.
    hello: str = ""
    template: str | Path = ""
    # Templates of single workloads.
    templates: dict = field(default_factory=dict)
    # What a client answers to a text, as `text=answer`.
    reply: str = ""
    # Further headers of a client's handshake.
    headers: tuple = ()
    works: tuple = ()
    missing: str = ""
    # The cores that it runs on.
    cores: str = "0"
    port: int = 0
    redis: int = 0
    pid: int = 0

    def fill(self, text):
        return str(text).format(port=self.port, redis=self.redis, folder=self.folder)

    def url(self, path):
        return f"ws://127.0.0.1:{self.port}{path}"

    @contextlib.contextmanager
    def running(self, redis, **environment):
        """Starts the server with the Redis on that port; stops it after the block."""
        self.port, self.redis = free_port(), redis
        with tempfile.TemporaryDirectory(prefix="ws4redis-bench-") as self.folder:
            prepare = getattr(self, "prepare", None)
            if prepare:
                prepare()
            settings = {key: self.fill(value) for key, value in (self.environment | environment).items()}
            command = [self.fill(word) for word in self.command]
            process = started(self.cores, command, self.port, os.environ | settings)
            self.pid = process.pid
            try:
                self.wait_for_handshake()
                yield self
            finally:
                stop(process)

    def wait_for_handshake(self):
        """Waits until the server accepts WebSockets; some listen before they are connected to Redis."""
        path = self.subscribe.replace("{u}", "0")
        request = f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
        deadline = time.monotonic() + 10
        while time.monotonic() < deadline:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.port), 5) as connection:
                connection.sendall(request.encode())
                if b" 101 " in connection.recv(64):
                    return
            time.sleep(0.05)
        raise Failed(f"{self.name} accepts no WebSocket")


class Nchan(Server):
    def prepare(self):
        for name in "bpfsu":
            Path(self.folder, f"r-{name}").mkdir()
        text = (HERE / "peers/nchan/nginx.conf").read_text()
        for key, value in {"PORT": self.port, "REDIS": self.redis, "FOLDER": self.folder}.items():
            text = text.replace(f"@{key}@", str(value))
        Path(self.folder, "nginx.conf").write_text(text)


def started(cores, command, port, env=None):
    """Starts a process on these cores and waits until it listens."""
    process = subprocess.Popen(["taskset", "-c", str(cores), *map(str, command)], env=env, stdin=subprocess.DEVNULL, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        if listens(port):
            return process
        if process.poll() is not None:
            break
        time.sleep(0.02)
    stop(process)
    raise Failed(f"{command[0]} does not listen on port {port}")


def stop(process):
    process.terminate()
    try:
        process.wait(5)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


@contextlib.contextmanager
def redis_server():
    port = free_port()
    with tempfile.TemporaryDirectory(prefix="ws4redis-bench-") as folder:
        process = started(1, ["redis-server", "--port", port, "--save", "", "--dir", folder, "--maxclients", "20000"], port)
        try:
            yield port, process.pid
        finally:
            stop(process)


def write_sessions(redis, count, groups=lambda number: ["chatusers", "staff"]):
    """Writes Django cache sessions of the users `0` to `count - 1`."""
    commands = bytearray()
    for number in range(count):
        key = f":1:django.contrib.sessions.cache{SESSION}{number:08}"
        session = f'{{"_auth_user_id": "{number}", "_auth_user_hash": "h", "ws4redis:username": "{number}", "ws4redis:memberof": {json.dumps(groups(number))}}}'
        words = ["SET", key, session, "EX", "86400"]
        commands += f"*{len(words)}\r\n".encode() + b"".join(f"${len(word)}\r\n{word}\r\n".encode() for word in words)
    with socket.create_connection(("127.0.0.1", redis), 10) as connection:
        connection.sendall(commands)
        got = bytearray()
        while got.count(b"\r\n") < count:
            part = connection.recv(65536)
            if not part:
                raise Failed("Redis has closed the connection")
            got += part
        if got != b"+OK\r\n" * count:
            raise Failed(f"Redis refuses sessions: {bytes(got[:200])}")


def ours(name="ws4redis", binary=None, shards=1, **environment):
    return Server(
        name,
        [binary or os.environ.get("BENCH_BINARY") or Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target"), "release/ws4redis")],
        "/ws/fac?subscribe-broadcast",
        "/ws/fac?publish-broadcast",
        "/ws/fac?subscribe-user",
        {
            "WS4REDIS_REDIS__URL": "redis://127.0.0.1:{redis}",
            "WS4REDIS_SERVER__LISTEN": "127.0.0.1:{port}",
            "WS4REDIS_SERVER__SHARDS": str(shards),
            "WS4REDIS_EXPIRE": "0",
        }
        | environment,
        works=(*EVERYTHING, "I1p", "I1s", "P1h", *SOCKET_IO[:4]),
    )


def version_2():
    """Returns ours with clients that speak version 2; the messages of plain clients become objects for them."""
    return dataclasses.replace(ours("ws4redis, version 2"), headers=("Sec-WebSocket-Protocol: ws4redis.2",), works=("F1", "F1w1"))


def over_socket_io(name, command, environment, missing="", query=""):
    """Returns a server whose clients speak Socket.IO, and whose messages come from python-socketio's RedisManager."""
    path = f"/socket.io/?EIO=4&transport=websocket{query}"
    channel = "redis://127.0.0.1:{redis}/socketio"
    return Server(
        name,
        command,
        path,
        "",
        path,
        environment,
        pub=channel,
        pub_user=channel,
        hello="40",
        template=EMITS / "everybody.json",
        templates={"S1r": EMITS / "staff.json", "SU": EMITS / "user.json"},
        reply="2=3",
        works=SOCKET_IO,
        missing=missing,
    )


def our_socket_io():
    plain = ours()
    rooms = {"WS4REDIS_SOCKETIO__USER_ROOM": "user:{{user}}", "WS4REDIS_SOCKETIO__GROUP_ROOM": "group:{{group}}"}
    environment = plain.environment | {"WS4REDIS_SOCKETIO__ENABLED": "true"} | rooms
    return over_socket_io("ws4redis, Socket.IO", plain.command, environment)


def socketioxide():
    missing = "" if SOCKETIOXIDE.exists() else "it could not be built"
    return over_socket_io("socketioxide", [SOCKETIOXIDE], {"PORT": "{port}", "REDIS_PORT": "{redis}"}, missing, "&user={u}")


def socket_io():
    folder = HERE / "peers/socket.io"
    missing = "" if shutil.which("node") and (folder / "node_modules").exists() else "its packages are not there, or node is not"
    return over_socket_io("socket.io", ["node", folder / "server.js"], {"PORT": "{port}", "REDIS_PORT": "{redis}"}, missing, "&user={u}")


def python_socketio():
    missing = "" if PYTHON_SOCKETIO.exists() else "its packages are not there"
    return over_socket_io("python-socketio", [PYTHON_SOCKETIO, HERE / "peers/python-socketio/server.py"], {"PORT": "{port}", "REDIS_PORT": "{redis}"}, missing, "&user={u}")


def floor(mode="coalesce"):
    name = "floor" if mode == "coalesce" else "floor, one send each"
    return Server(name, [TOOLS / "floor", "--mode", mode, "--listen", "127.0.0.1:{port}", "--redis", "127.0.0.1:{redis}"], "/", "", works=(*FANOUTS, "I1"))


def bun():
    missing = "" if BUN.exists() else "its package is not there (x86-64 only)"
    return Server("Bun", [BUN, HERE / "peers/bun/server.js"], f"/?ch={CHANNEL}", f"/?ch={CHANNEL}&nosub", "/?ch=user:{u}:fac", {"PORT": "{port}", "REDIS_PORT": "{redis}"}, works=EVERYTHING, missing=missing)


def node():
    missing = "" if shutil.which("node") and (HERE / "peers/node/node_modules").exists() else "its packages are not there, or node is not"
    return Server("node ws", ["node", HERE / "peers/node/server.js"], f"/?ch={CHANNEL}", f"/?ch={CHANNEL}&nosub", "/?ch=user:{u}:fac", {"PORT": "{port}", "REDIS_PORT": "{redis}"}, works=EVERYTHING, missing=missing)


def nchan():
    missing = "" if shutil.which("nginx") and Path("/usr/lib/nginx/modules/ngx_nchan_module.so").exists() else "Debian's libnginx-mod-nchan is not there"
    return Nchan("nchan", ["nginx", "-c", "{folder}/nginx.conf", "-p", "{folder}"], "/sub/fac", "", "/sub/user{u}", pub="http://127.0.0.1:{port}/pub/fac", pub_user="http://127.0.0.1:{port}/pub/user{{u}}", works=(*FANOUTS, "U1", "C1", "I1"), missing=missing)


def centrifugo():
    missing = "" if CENTRIFUGO.exists() else "it has not been built, which needs Go"
    # Channel names contain the number of the user, which is 0 in workloads without users.
    publish = "http://127.0.0.1:{port}/api/publish"
    folder = HERE / "peers/centrifugo"
    return Server(
        "Centrifugo",
        [CENTRIFUGO, "--config", folder / "config.json"],
        "/connection/websocket",
        "",
        "/connection/websocket",
        {"CENTRIFUGO_HTTP_SERVER_PORT": "{port}", "GOMAXPROCS": "1"},
        pub=publish,
        pub_user=publish,
        hello='{"id":1,"connect":{}}\n{"id":2,"subscribe":{"channel":"user{u}"}}',
        template=folder / "message.json",
        works=(*FANOUTS, "U1", "C1", "I1"),
        missing=missing,
    )


def raise_file_limit():
    """Raises the limit of open files, which the servers inherit; returns it."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return hard
