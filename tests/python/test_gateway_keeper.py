"""The thread in which `runserver` keeps a gateway."""

import os
import queue
import socket
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from ws4redis import gateway_keeper
from ws4redis.development import KeeperLink
from ws4redis.gateway_keeper import Keeper


def test_a_keeper_without_connections_ends_without_an_error(monkeypatch):
    failures = []
    monkeypatch.setattr(threading, "excepthook", failures.append)
    keeper = Keeper()
    keeper.start()
    keeper.stop()
    assert failures == []
    assert not keeper._thread.is_alive()
    assert keeper._channel.fileno() == -1, "the thread has not come to its end"
    assert not Path(keeper._address).exists()


def test_a_connection_is_never_inheritable(monkeypatch):
    """Django's reloader starts its child with all descriptors that are inheritable at that moment."""
    if not hasattr(socket, "MSG_CMSG_CLOEXEC"):
        pytest.skip("this system cannot receive descriptors that are not inheritable")
    received = queue.Queue()

    async def note(self, client):
        received.put(client)

    monkeypatch.setattr(Keeper, "_serve", note)
    # Between the arrival of a descriptor and this call.
    monkeypatch.setattr(gateway_keeper.os, "set_inheritable", lambda descriptor, inheritable: None)
    keeper = Keeper()
    keeper.start()
    first, second = socket.socketpair()
    try:
        KeeperLink(keeper.server_end, "secret").send_client(first)
        with received.get(timeout=10) as client:
            assert not os.get_inheritable(client.fileno())
    finally:
        first.close()
        second.close()
        keeper.stop()


def test_all_descriptors_are_closed_at_the_end():
    before = descriptors()
    keeper = Keeper()
    keeper.start()
    keeper.stop()
    assert descriptors() == before


def descriptors():
    """Returns the descriptors of this process."""
    return {
        name: os.readlink(f"/dev/fd/{name}")
        for name in os.listdir("/dev/fd")
        if os.path.exists(f"/dev/fd/{name}")
    }


CHILD = """
import os, signal, sys, time
from ws4redis.development import KeeperLink
link = KeeperLink.from_environment()
link._send(b"C", 0)
print("sent", flush=True)
time.sleep(60)
"""


@pytest.mark.parametrize("is_read", [True, False])
def test_the_server_process_ends_with_its_parent(is_read):
    """Also if the parent is killed while a connection is on its way, which resets the socket pair."""
    mine, its = socket.socketpair()
    its.set_inheritable(True)
    environment = os.environ | {
        "DJANGO_WS4REDIS_KEEPER": f"{its.fileno()}:secret",
        "PYTHONPATH": str(Path(gateway_keeper.__file__).parents[1]),
    }
    child = subprocess.Popen(
        [sys.executable, "-c", f"import django; django.setup()\n{CHILD}"],
        env=environment,
        pass_fds=[its.fileno()],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        cwd=Path(__file__).resolve().parents[1] / "django",
    )
    its.close()
    try:
        assert child.stdout.readline() == b"sent\n", child.stderr.read()
        if is_read:
            mine.recv(1)
        mine.close()
        child.wait(10)
    finally:
        child.kill()
        child.communicate()
