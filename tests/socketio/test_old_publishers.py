"""Releases of python-socketio of each generation publish, and get their acknowledgements. Only with WS4REDIS_TESTS_LONG."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from harness import DEADLINE, Gateway

FOLDER = Path(__file__).parent
CACHE = FOLDER.parent / ".cache"

pytestmark = pytest.mark.skipif("WS4REDIS_TESTS_LONG" not in os.environ, reason="installs old releases")


@pytest.fixture(scope="module")
def pickle_gateway(store):
    settings = {"redis__url": store.url, "socketio__enabled": "true", "socketio__redis_manager__pickle": "true"}
    server = Gateway(**settings)
    yield server
    server.stop()


def installed(version):
    """Returns the Python of an environment with this release."""
    home = CACHE / f"python-socketio-{version}"
    python = home / "bin" / "python"
    if not (home / "ready").exists():
        subprocess.run([sys.executable, "-m", "venv", home], check=True, timeout=300)
        packages = [f"python-socketio=={version}", "redis<6"]
        subprocess.run([python, "-m", "pip", "install", "-q", *packages], check=True, timeout=300)
        (home / "ready").touch()
    return python


@pytest.mark.parametrize("version", ["4.6.1", "5.13.0", "5.15.0", "5.18.1"])
def test_old_publishers_reach_clients_and_get_acknowledgements(pickle_gateway, store, connect_to, version):
    client = connect_to(pickle_gateway, 4, "websocket")
    event, sid = client.next()
    assert event == "connect"
    command = [installed(version), FOLDER / "old_publisher.py", f"redis://127.0.0.1:{store.port}/0", sid]
    answer = subprocess.run(command, check=True, capture_output=True, text=True, timeout=2 * DEADLINE)
    assert json.loads(answer.stdout) == [{"twice": 42}]
    assert client.next() == ["news", "websocket", {"text": "ż€🎉", "none": None}]
    assert client.next() == ["news", "websocket", {"bytes": "00ff"}]
