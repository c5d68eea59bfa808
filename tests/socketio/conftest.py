"""A gateway for Socket.IO, and the publishers of Python and Node."""

import json
import queue
import subprocess
import threading
from pathlib import Path

import pytest
import socketio

from harness import DEADLINE, Gateway, RedisServer

FOLDER = Path(__file__).parent


@pytest.fixture(scope="session")
def store():
    server = RedisServer()
    yield server
    server.stop()


@pytest.fixture(scope="session")
def gateway(store):
    settings = {"redis__url": store.url, "socketio__enabled": "true", "socketio__emitter__enabled": "true"}
    server = Gateway(**settings, server__shards=3)
    yield server
    server.stop()


@pytest.fixture(scope="session")
def manager(store):
    return socketio.RedisManager(f"redis://127.0.0.1:{store.port}/0", write_only=True)


class NodeProcess:
    """A script for Node that writes one JSON value a line."""

    def __init__(self, *command):
        self.process = subprocess.Popen(
            ["node", *command], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        self.lines = queue.Queue()
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self):
        for line in self.process.stdout:
            self.lines.put(line)

    def next(self):
        """Returns what happens next."""
        line = self.lines.get(timeout=DEADLINE)
        try:
            return json.loads(line)
        except json.JSONDecodeError:
            pytest.fail(f"node: {line}")

    def call(self, *command):
        """Sends a command, and returns its result."""
        self.process.stdin.write(json.dumps(command) + "\n")
        self.process.stdin.flush()
        return self.next()

    def close(self):
        self.process.stdin.close()
        self.process.wait(DEADLINE)


@pytest.fixture
def connect_to():
    """Starts an official client of a gateway."""
    clients = []

    def connect_client(gateway, major, transports, *options):
        url = f"http://127.0.0.1:{gateway.port}"
        clients.append(NodeProcess(FOLDER / "client.js", str(major), url, transports, *options))
        return clients[-1]

    yield connect_client
    for client in clients:
        client.close()


@pytest.fixture
def connect(gateway, connect_to):
    return lambda major, transports: connect_to(gateway, major, transports)


@pytest.fixture
def publisher(store):
    """Starts an emitter of Node, or a server with the Redis adapter."""
    publishers = []

    def start(kind):
        publishers.append(NodeProcess(FOLDER / "publisher.js", kind, str(store.port), "socket.io"))
        return publishers[-1]

    yield start
    for each in publishers:
        each.close()
