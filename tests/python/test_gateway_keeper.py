"""The thread in which `runserver` keeps a gateway."""

import threading
from pathlib import Path

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
