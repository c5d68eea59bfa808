"""A gateway for Socket.IO, and python-socketio's publisher."""

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
    server = Gateway(redis__url=store.url, socketio__enabled="true", server__shards=3)
    yield server
    server.stop()


@pytest.fixture(scope="session")
def manager(store):
    return socketio.RedisManager(f"redis://127.0.0.1:{store.port}/0", write_only=True)


class NodeClient:
    """An official JavaScript client in a process of its own."""

    def __init__(self, major, port, transports):
        command = ["node", FOLDER / "client.js", str(major), f"http://127.0.0.1:{port}", transports]
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
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

    def close(self):
        self.process.stdin.close()
        self.process.wait(DEADLINE)


@pytest.fixture
def connect(gateway):
    clients = []

    def connect_client(major, transports):
        clients.append(NodeClient(major, gateway.port, transports))
        return clients[-1]

    yield connect_client
    for client in clients:
        client.close()
