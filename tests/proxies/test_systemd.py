"""The systemd units are valid and sandbox the gateway. The tests of the Debian package start them."""

import subprocess
import sys

import pytest
from reverse_proxies import DEPLOY, filled

from harness import BINARY, DEADLINE


@pytest.fixture
def units(tmp_path):
    """Returns the units with the path of an existing program."""
    service = tmp_path / "ws4redis.service"
    service.write_text(filled("ws4redis.service", {"ExecStart=ws4redis": f"ExecStart={BINARY}"}))
    socket = tmp_path / "ws4redis.socket"
    socket.write_text((DEPLOY / "socket" / "ws4redis.socket").read_text())
    worker = tmp_path / "ws4redis-worker@.service"
    worker.write_text(filled("ws4redis-worker@.service", {"/srv/mysite/venv/bin/python": sys.executable}))
    return service, socket, worker


def analyze(*words):
    return subprocess.run(["systemd-analyze", *words], capture_output=True, text=True, timeout=DEADLINE * 3)


def test_systemd_verifies_the_units_without_a_warning(units):
    done = analyze("verify", "--man=no", *units)
    # Messages about units of the machine itself are ignored.
    warnings = [line for line in (done.stdout + done.stderr).splitlines() if "ws4redis" in line]
    assert warnings == []


def test_the_gateway_has_few_rights(units):
    # The exposure level: 0 is fully sandboxed, 10 is unrestricted; a unit without any of these lines has 9.6.
    done = analyze("security", "--offline=true", "--threshold=20", units[0])
    assert done.returncode == 0, done.stdout[-300:] + done.stderr
