"""Close codes reach clients that are sending all the time, through each proxy."""

import socket
import ssl
import time
import uuid

import pytest
from fronts import HOST, Caddy, Haproxy, Nginx

from harness import DEADLINE, handshake, unique

SENDERS = 40
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


class Senders:
    """Clients that send 200 bytes every 5 ms. Each time they send first and read then, as event loops with timers do: if
    a reset has come by then, the sending fails, and the close frame before it is never seen."""

    def __init__(self, front, facility, flags, *headers):
        context = front.authority.context("http/1.1")
        self.open = []
        self.codes = []
        for _ in range(SENDERS):
            plain = socket.create_connection(("127.0.0.1", front.port), DEADLINE)
            sender = context.wrap_socket(plain, server_hostname=HOST)
            assert handshake(sender, f"/ws/{facility}?{flags}", *headers, host=HOST)[0] == 101
            sender.setblocking(False)
            self.open.append(sender)

    def run(self, end=lambda: None):
        """The codes that they see; calls `end` when all have begun to send."""
        deadline = time.monotonic() + DEADLINE * 3
        for turn in range(1_000_000):
            if turn == 20:
                end()
            time.sleep(0.005)
            for sender in list(self.open):
                self.send(sender)
            for sender in list(self.open):
                self.read(sender)
            if not self.open:
                return self.codes
            assert time.monotonic() < deadline, f"{len(self.open)} are not closed, {self.codes}"

    def send(self, sender):
        try:
            sender.send(TEXT)
        except BLOCKED:
            pass
        except OSError:
            self.close(sender, 1006)

    def read(self, sender):
        try:
            data = sender.recv(1 << 16)
        except BLOCKED:
            return
        except OSError:
            data = b""
        if data[:1] == b"\x88":
            code = int.from_bytes(data[2:4], "big")
            try:
                sender.send(CLOSED)
            except OSError:
                code = f"{code}, but cut before it could be answered"
            self.close(sender, code)
        elif not data:
            self.close(sender, 1006)

    def close(self, sender, code):
        self.codes.append(code)
        self.open.remove(sender)
        sender.close()


@pytest.fixture(params=[Nginx, Haproxy, Caddy])
def front(request, start, tmp_path):
    rules = tmp_path / "rules.toml"
    rules.write_text(RULES)
    return start(request.param, file=rules, server__drain_seconds=2, session__recheck_seconds=1)


def test_a_deleted_session_reaches_clients_that_are_sending_as_4401(front, client):
    session = uuid.uuid4().hex
    key = f":1:django.contrib.sessions.cache{session}"
    client.set(key, SESSION, ex=1000)
    senders = Senders(front, unique(), "subscribe-user", f"Cookie: sessionid={session}")
    assert senders.run(lambda: client.delete(key)) == [4401] * SENDERS


def test_a_limit_on_publishing_reaches_clients_that_are_sending_as_1008(front):
    assert Senders(front, unique("fast"), "publish-broadcast").run() == [1008] * SENDERS


def test_a_stop_reaches_clients_that_are_sending_as_1012(front):
    def stop():
        for gateway in front.behind:
            gateway.process.terminate()

    assert Senders(front, unique(), "subscribe-broadcast").run(stop) == [1012] * SENDERS
