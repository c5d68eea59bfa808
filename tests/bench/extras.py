"""Further measurements of ws4redis; each function takes one and returns its numbers."""

import contextlib
import dataclasses
import json
import os
import select
import socket
import subprocess
import tempfile
import time
from pathlib import Path

from results import CPU, ERRORS
from servers import CHANNEL, SESSION, Failed, free_port, listens, stop, write_sessions
from works import PATIENCE, parse_output, generator, measure

MEBIBYTE = 1 << 20
# 16,700 connections with six channels each (broadcast, user, session, three groups) make 100,200 channels.
CONNECTIONS, CHANNELS_EACH = 16700, 6
IDLE_SECONDS = 60


def memory(pid, line="VmRSS"):
    """Returns the resident memory of a process in bytes, or with VmHWM its peak."""
    for text in Path(f"/proc/{pid}/status").read_text().splitlines():
        if text.startswith(line):
            return int(text.split()[1]) * 1024
    raise Failed(f"process {pid} has ended")


def processor_seconds(pid):
    """Returns the CPU time of a process from the scheduler, which counts nanoseconds; `top` counts ticks."""
    total = 0
    for task in Path(f"/proc/{pid}/task").iterdir():
        total += int((task / "schedstat").read_text().split()[0])
    return total / 1e9


def wait_until(true, seconds, what):
    deadline = time.monotonic() + seconds
    while not true():
        if time.monotonic() > deadline:
            raise Failed(f"{what}: not within {seconds} s")
        time.sleep(0.05)


def redis_command(redis, *words):
    """Sends a command to Redis; returns the first line of its reply."""
    with socket.create_connection(("127.0.0.1", redis), 10) as connection:
        command = b"*%d\r\n" % len(words)
        for word in words:
            word = word if isinstance(word, bytes) else str(word).encode()
            command += b"$%d\r\n%s\r\n" % (len(word), word)
        connection.sendall(command)
        return connection.makefile("rb").readline().strip()


def websocket(port, path, buffer=None):
    """Returns a connection after its handshake; `buffer` is the size of its receive buffer in bytes."""
    connection = socket.socket()
    connection.settimeout(10)
    if buffer:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, buffer)
    connection.connect(("127.0.0.1", port))
    request = (
        f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
        "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
    )
    connection.sendall(request.encode())
    head = b""
    while not head.endswith(b"\r\n\r\n"):
        part = connection.recv(1)
        if not part:
            break
        head += part
    if not head.startswith(b"HTTP/1.1 101"):
        connection.close()
        raise Failed(f"no WebSocket: {head[:60]!r}")
    return connection


@contextlib.contextmanager
def open_connections(server, redis_pid, path, connections, seconds, *arguments):
    """Holds connections open with the generator; yields a function that waits for its numbers."""
    command = generator(server, redis_pid, ["idle", "--conns", connections, "--url", server.url(path), "--hold", seconds, "--connect-secs", PATIENCE - 10, *arguments])
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    held = Path(f"/proc/{server.pid}/fd")
    try:
        wait_until(lambda: process.poll() is not None or len(os.listdir(held)) > connections, PATIENCE, "all connections are open")

        def numbers():
            try:
                return parse_output(*process.communicate(timeout=seconds + PATIENCE))
            except subprocess.TimeoutExpired:
                raise Failed("the generator did not end in time") from None

        yield numbers
    finally:
        stop(process)


def idle(server, redis, redis_pid):
    """CPU time with 10,000 idle connections and default pings; each connection gets at least one ping."""
    with server.running(redis), open_connections(server, redis_pid, server.subscribe, 10000, IDLE_SECONDS + 15):
        time.sleep(5)
        before = processor_seconds(server.pid)
        since = time.monotonic()
        time.sleep(IDLE_SECONDS)
        spent = processor_seconds(server.pid) - before
        return {"percent": 100 * spent / (time.monotonic() - since)}


def answer(connection, port, method, query, body=b""):
    """Sends a request of a polling client over an open connection; returns the body of the answer."""
    lines = [f"{method} /socket.io/?EIO=4&transport=polling{query} HTTP/1.1", f"Host: 127.0.0.1:{port}"]
    if body:
        lines += ["Content-Type: text/plain;charset=UTF-8", f"Content-Length: {len(body)}"]
    connection.sendall("\r\n".join([*lines, "", ""]).encode() + body)
    reader = connection.makefile("rb")
    status = reader.readline()
    length = 0
    while (line := reader.readline().lower()) not in (b"\r\n", b""):
        if line.startswith(b"content-length:"):
            length = int(line.split(b":")[1])
    if b" 200 " not in status:
        raise Failed(f"a request of a polling client: {status.decode().strip()}")
    return reader.read(length)


def polling(server, redis, redis_pid, clients=5000):
    """Memory of a Socket.IO client between two polls: it has joined a namespace, and has no connection open."""
    with server.running(redis):
        before = memory(server.pid)
        for number in range(clients):
            with socket.create_connection(("127.0.0.1", server.port), 10) as connection:
                opened = answer(connection, server.port, "GET", f"&user={number}")
                sid = "&sid=" + json.loads(opened[1:])["sid"]
                answer(connection, server.port, "POST", sid, b"40")
                if not answer(connection, server.port, "GET", sid).startswith(b"40"):
                    raise Failed("a polling client cannot join the namespace")
        time.sleep(1)
        return {"rss_per_conn_bytes": (memory(server.pid) - before) / clients}


def channels(server, redis, redis_pid):
    """Memory of a channel with one listener, and channels subscribed per second including the handshakes."""
    write_sessions(redis, CONNECTIONS, lambda number: [f"a{number}", f"b{number}", f"c{number}"])
    cookie = ["--header", f"Cookie: sessionid={SESSION}{{i8}}"]
    with server.running(redis), open_connections(server, redis_pid, server.subscribe, CONNECTIONS, 2, *cookie) as numbers:
        one = numbers()
    own = "/ws/f{i}?subscribe-broadcast&subscribe-user&subscribe-session&subscribe-group"
    with server.running(redis), open_connections(server, redis_pid, own, CONNECTIONS, 4, *cookie) as numbers:
        time.sleep(1.5)
        # The first line of the reply has the number of channels: `*100201`.
        subscribed = int(redis_command(redis, "PUBSUB", "CHANNELS", "*:f*")[1:])
        six = numbers()
    if subscribed < CONNECTIONS * CHANNELS_EACH:
        raise Failed(f"only {subscribed} channels were subscribed")
    more = six["rss_per_conn_bytes"] - one["rss_per_conn_bytes"]
    return {"bytes": more / (CHANNELS_EACH - 1), "per_second": six["handshakes_per_s"] * CHANNELS_EACH, "died": one["died"] + six["died"]}


def large(server, redis, redis_pid, clients=1000, messages=3):
    """The growth of the server's memory during messages of 1 MiB to 1,000 clients."""
    connections, reader = [], select.epoll()
    buffer = bytearray(1 << 18)
    with server.running(redis):
        try:
            for _ in range(clients):
                connection = websocket(server.port, server.subscribe)
                connection.setblocking(False)
                reader.register(connection, select.EPOLLIN)
                connections.append(connection)
            by_number = {connection.fileno(): connection for connection in connections}
            time.sleep(0.5)
            before = memory(server.pid)
            # Resets the peak (VmHWM).
            Path(f"/proc/{server.pid}/clear_refs").write_text("5")
            for _ in range(messages):
                redis_command(redis, "PUBLISH", CHANNEL, b"x" * MEBIBYTE)
                # A frame header of this size takes 10 bytes.
                missing, deadline = clients * (MEBIBYTE + 10), time.monotonic() + 30
                while missing > 0:
                    if time.monotonic() > deadline:
                        raise Failed(f"{missing} bytes have not arrived within 30 s")
                    for number, _ in reader.poll(1):
                        got = by_number[number].recv_into(buffer)
                        if not got:
                            raise Failed("a client was closed")
                        missing -= got
            return {"mebibytes": (memory(server.pid, "VmHWM") - before) / MEBIBYTE}
        finally:
            reader.close()
            for connection in connections:
                connection.close()


def slow(server, redis, redis_pid, turn, secs):
    """Latencies of 1,000 clients without and with a further client that reads nothing and loses messages."""
    environment = {"WS4REDIS_MESSAGES__WHEN_SLOW": "drop-oldest"}
    extra = ["--size", "16384", "--rate", "50"]

    @contextlib.contextmanager
    def stopped():
        with websocket(server.port, server.subscribe, 4096):
            yield

    found = dict.fromkeys(ERRORS, 0)
    ways = {"without": contextlib.nullcontext, "with": stopped}
    for name in ways if turn % 2 else reversed(ways):
        result = measure("F4", server, redis, redis_pid, secs, extra, environment, ways[name])
        found[name] = result["latency_p99_us"]
        for kind in ERRORS:
            found[kind] += result.get(kind, 0)
    return found


def shards(one, redis, redis_pid, turn, secs):
    """CPU per delivery with one shard on core 0, and with two shards on both cores, one shared with the generator."""
    two = dataclasses.replace(one, cores="0,1", environment=one.environment | {"WS4REDIS_SERVER__SHARDS": "2"})
    found = dict.fromkeys(ERRORS, 0)
    for work in ("F1w1", "U1"):
        for name, server in [("one", one), ("two", two)][:: 1 if turn % 2 else -1]:
            result = measure(work, server, redis, redis_pid, secs)
            found[f"{work} {name}"] = result[CPU]
            for kind in ERRORS:
                found[kind] += result.get(kind, 0)
    return found


def start(server, redis, redis_pid, times=9):
    """Milliseconds from the start of the process until its port accepts connections, and the size of the binary."""
    took = []
    for _ in range(times):
        server.port, server.redis = free_port(), redis
        with tempfile.TemporaryDirectory(prefix="ws4redis-bench-") as server.folder:
            settings = {key: server.fill(value) for key, value in server.environment.items()}
            since = time.monotonic()
            process = subprocess.Popen(["taskset", "-c", "0", *map(str, server.command)], env=os.environ | settings, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            try:
                while not listens(server.port):
                    if time.monotonic() - since > 10:
                        raise Failed("it does not listen within 10 s")
                    time.sleep(0.0005)
                took.append(1000 * (time.monotonic() - since))
            finally:
                stop(process)
    return {"milliseconds": sorted(took)[times // 2], "megabytes": os.path.getsize(server.command[0]) / 1e6}
