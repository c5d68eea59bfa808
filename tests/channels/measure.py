"""What the move to the gateway changes: memory and CPU of connections, deliveries, and the cost of a group_send.

    tests/channels/measure.py [FORM...]     channels-core, channels-pubsub, gateway-core, gateway-pubsub (all by default)

Each form starts with a Redis of its own. 1,000 anonymous clients listen to the group of everybody, one event of 128
bytes is in flight. WS4REDIS_BIN is the gateway to measure. Prints a table, with medians of the cost.
"""

import asyncio
import os
import pathlib
import statistics
import subprocess
import sys
import tempfile
import time

HERE = pathlib.Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent), str(HERE / "site"), str(HERE.parents[1] / "python")]

FORMS = ("channels-core", "channels-pubsub", "gateway-core", "gateway-pubsub")
FIGURES = (
    "bytes per connection",
    "CPU of a handshake",
    "CPU of a delivery",
    "deliveries per second",
    "group_send of the layer",
    "group_send of ws4redis",
    "how many times less CPU",
)
CONNECTIONS = 1000
EVENTS = 20
CALLS = 500
# Handshakes at once; Daphne answers them one after the other.
AT_ONCE = 20
TEXT, PING, PONG = 0x81, 0x89, 0x8A
TICKS = os.sysconf("SC_CLK_TCK")
SECONDS = 120


def cpu(pid):
    """Returns the CPU time of a process, in seconds."""
    fields = pathlib.Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICKS


def memory(pid):
    """Returns the resident memory of a process, in bytes."""
    for line in pathlib.Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS"):
            return int(line.split()[1]) * 1024
    raise AssertionError("the process has ended")


def whole_frame(data):
    """Returns the first frame of the data, of at most 64 KiB; None if it is not complete."""
    if len(data) < 4 and (len(data) < 2 or len(data) < 2 + data[1]):
        return None
    size = 2 + data[1] if data[1] < 126 else 4 + int.from_bytes(data[2:4], "big")
    return data[:size] if len(data) >= size else None


class Clients:
    """Clients that count messages, and answer pings."""

    def __init__(self, port, path, origin):
        lines = (
            f"GET {path} HTTP/1.1",
            f"Host: 127.0.0.1:{port}",
            f"Origin: {origin}",
            "Upgrade: websocket",
            "Connection: Upgrade",
            "Sec-WebSocket-Version: 13",
            "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
        )
        self.request = "\r\n".join((*lines, "", "")).encode()
        self.port = port
        self.received = 0
        self.arrived = asyncio.Event()
        self.wanted = 0

    async def open(self, count):
        limit = asyncio.Semaphore(AT_ONCE)

        async def one():
            async with limit:
                reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
                writer.write(self.request)
                head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), SECONDS)
                assert head.startswith(b"HTTP/1.1 101"), head
            return reader, writer

        self.streams = await asyncio.gather(*(one() for _ in range(count)))
        self.tasks = [asyncio.ensure_future(self.read(*stream)) for stream in self.streams]

    async def read(self, reader, writer):
        waiting = b""
        while data := await reader.read(65536):
            waiting += data
            while frame := whole_frame(waiting):
                waiting = waiting[len(frame) :]
                if frame[0] == PING:
                    # Masked with zeros.
                    writer.write(bytes((PONG, 0x80 | frame[1])) + bytes(4) + frame[2:])
                elif frame[0] == TEXT:
                    self.received += 1
                    if self.received >= self.wanted:
                        self.arrived.set()

    async def receive(self, count, seconds=SECONDS):
        """Waits until that many messages have arrived in total."""
        self.wanted = count
        self.arrived.clear()
        if self.received < count:
            await asyncio.wait_for(self.arrived.wait(), seconds)

    async def close(self):
        for task in self.tasks:
            task.cancel()
        for _, writer in self.streams:
            writer.close()


async def deliveries(form, process, send):
    """Returns the figures of the connections: the first four."""
    if form.server == "gateway":
        clients = Clients(form.gateway.port, "/ws/chat?subscribe-broadcast", form.origin)
    else:
        clients = Clients(form.port, "/ws/chat/", form.origin)
    # The first connections load code.
    await clients.open(1)
    await clients.close()
    used, since = memory(process), cpu(process)
    await clients.open(CONNECTIONS)
    each_memory = (memory(process) - used) / CONNECTIONS
    each_handshake = (cpu(process) - since) / CONNECTIONS

    event = {"type": "new_message", "message": {"chat": None, "author": "site", "text": "x" * 100}}
    await first_event(clients, send, event)
    clients.received = 0
    since, began = cpu(process), time.perf_counter()
    for number in range(1, EVENTS + 1):
        await asyncio.to_thread(send, "everybody", event)
        await clients.receive(number * CONNECTIONS)
    seconds = time.perf_counter() - began
    each_delivery = (cpu(process) - since) / EVENTS / CONNECTIONS
    await clients.close()
    return [
        f"{each_memory:,.0f}",
        f"{each_handshake * 1e6:,.0f} µs",
        f"{each_delivery * 1e6:,.1f} µs",
        f"{EVENTS * CONNECTIONS / seconds:,.0f}",
    ]


async def first_event(clients, send, event):
    """Sends events until one has reached all clients, which join the group after their handshake."""
    for _ in range(10):
        clients.received = 0
        await asyncio.to_thread(send, "everybody", event)
        try:
            return await clients.receive(CONNECTIONS, 20)
        except asyncio.TimeoutError:
            pass
    raise AssertionError(f"{clients.received} of {CONNECTIONS} clients receive events")


def cost(send):
    """Returns the median of the seconds, and the mean of the CPU seconds, that a call takes."""
    event = {"type": "new_message", "message": {"chat": 5, "author": "john", "text": "x" * 100}}
    seconds = []
    since = time.process_time()
    for _ in range(CALLS):
        began = time.perf_counter()
        send("chat_5", event)
        seconds.append(time.perf_counter() - began)
    return statistics.median(seconds), (time.process_time() - since) / CALLS


def measure(name):
    """Prints the figures of one form, each as a line `NAME: VALUE`."""
    from conftest import Form

    with tempfile.TemporaryDirectory() as directory:
        form = Form(name, pathlib.Path(directory))
        try:
            os.environ.update({key: str(value) for key, value in form.variables.items()})
            os.environ["DJANGO_SETTINGS_MODULE"] = "project.settings"
            import django

            django.setup()
            import redis
            from asgiref.sync import async_to_sync
            from channels.layers import get_channel_layer

            from ws4redis.channels import group_send

            by_layer = async_to_sync(get_channel_layer().group_send)
            server = form.gateway if form.server == "gateway" else form.site
            figures = asyncio.run(deliveries(form, server.process.pid, group_send))
            if form.layer == "core":
                # One process has joined; its mailbox is emptied, since nobody reads it.
                client = redis.Redis(port=form.redis.port)
                client.zadd("asgi:group:chat_5", {"specific.0!1": time.time()})
            # The better of two rounds: other processes disturb.
            layer, ours = (min(cost(send) for _ in range(2)) for send in (by_layer, group_send))
            figures += [
                f"{seconds * 1e6:,.0f} µs ({used * 1e6:,.0f} µs of CPU)" for seconds, used in (layer, ours)
            ]
            figures.append(f"{layer[1] / ours[1]:.0f}")
        finally:
            form.stop()
    for key, value in zip(FIGURES, figures):
        print(f"{key}: {value}")


def main():
    names = sys.argv[1:] or FORMS
    if sys.argv[1:2] == ["--one"]:
        return measure(sys.argv[2])
    found = {}
    for name in names:
        print(name, file=sys.stderr)
        # Django's settings are read once per process.
        output = subprocess.run(
            [sys.executable, __file__, "--one", name], stdout=subprocess.PIPE, text=True, check=True
        )
        found[name] = dict(line.split(": ", 1) for line in output.stdout.splitlines())
    print("| | " + " | ".join(names) + " |")
    print("|---" * (len(names) + 1) + "|")
    for key in FIGURES:
        print(f"| {key} | " + " | ".join(found[name][key] for name in names) + " |")
    return None


if __name__ == "__main__":
    main()
