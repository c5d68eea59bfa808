"""Close codes pass each proxy to clients that send continuously."""

import socket
import ssl
import time
import uuid

import pytest
from reverse_proxies import HOST, Caddy, Haproxy, Nginx

from harness import DEADLINE, handshake, unique

CLIENTS = 40
BLOCKED = (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError)
TEXT = b"\x81\xfe\x00\xc8" + bytes(4) + b"x" * 200
CLOSED = b"\x88\x82" + bytes(4) + b"\x03\xe8"
"""Frames with a mask of zeros."""
SESSION = '{"_auth_user_id": "7", "_auth_user_hash": "h", "ws4redis:username": "john"}'
RULES = """
[[access]]
facility = ["fast-*"]
anonymous = ["publish-broadcast"]
publish_messages_per_second = 20
publish_burst_seconds = 1

[[access]]
facility = ["*"]
anonymous = ["subscribe-*", "publish-*"]
users = ["subscribe-*", "publish-*"]
"""


class BusyClients:
    """Clients that send 200 bytes every 5 ms.

    They send before they read, as event loops with timers do: after a reset the send fails, and the close frame that
    preceded the reset is never read.
    """

    def __init__(self, proxy, facility, flags, *headers):
        context = proxy.authority.context("http/1.1")
        self.open = []
        self.codes = []
        for _ in range(CLIENTS):
            plain = socket.create_connection(("127.0.0.1", proxy.port), DEADLINE)
            client = context.wrap_socket(plain, server_hostname=HOST)
            assert handshake(client, f"/ws/{facility}?{flags}", *headers, host=HOST)[0] == 101
            client.setblocking(False)
            self.open.append(client)

    def run(self, end=lambda: None):
        """Calls `end` once all clients are sending; returns the close codes that they received."""
        deadline = time.monotonic() + DEADLINE * 3
        for turn in range(1_000_000):
            if turn == 20:
                end()
            time.sleep(0.005)
            for client in list(self.open):
                self.send(client)
            for client in list(self.open):
                self.read(client)
            if not self.open:
                return self.codes
            assert time.monotonic() < deadline, f"{len(self.open)} are not closed, {self.codes}"

    def send(self, client):
        try:
            client.send(TEXT)
        except BLOCKED:
            pass
        except OSError:
            self.close(client, 1006)

    def read(self, client):
        try:
            data = client.recv(1 << 16)
        except BLOCKED:
            return
        except OSError:
            data = b""
        if data[:1] == b"\x88":
            code = int.from_bytes(data[2:4], "big")
            try:
                client.send(CLOSED)
            except OSError:
                code = f"{code}, but cut before it could be answered"
            self.close(client, code)
        elif not data:
            self.close(client, 1006)

    def close(self, client, code):
        self.codes.append(code)
        self.open.remove(client)
        client.close()


@pytest.fixture(params=[Nginx, Haproxy, Caddy])
def proxy(request, start, tmp_path):
    rules = tmp_path / "rules.toml"
    rules.write_text(RULES)
    return start(request.param, file=rules, server__drain_seconds=2, session__recheck_seconds=1)


def test_a_deleted_session_reaches_clients_that_are_sending_as_4401(proxy, client):
    session = uuid.uuid4().hex
    key = f":1:django.contrib.sessions.cache{session}"
    client.set(key, SESSION, ex=1000)
    clients = BusyClients(proxy, unique(), "subscribe-user", f"Cookie: sessionid={session}")
    assert clients.run(lambda: client.delete(key)) == [4401] * CLIENTS


def test_a_limit_on_publishing_reaches_clients_that_are_sending_as_1008(proxy):
    assert BusyClients(proxy, unique("fast"), "publish-broadcast").run() == [1008] * CLIENTS


def test_a_stop_reaches_clients_that_are_sending_as_1012(proxy):
    def stop():
        for gateway in proxy.backends:
            gateway.process.terminate()

    assert BusyClients(proxy, unique(), "subscribe-broadcast").run(stop) == [1012] * CLIENTS
