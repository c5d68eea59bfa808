"""The units are sound, and leave the gateway few rights. Whether systemd starts them cannot be tested without it."""

import subprocess

import pytest
from fronts import DEPLOY, filled

from harness import BINARY, DEADLINE


@pytest.fixture
def units(tmp_path):
    """The units, with a program that is there."""
    service = tmp_path / "ws4redis.service"
    service.write_text(filled("ws4redis.service", {"/usr/local/bin/ws4redis": BINARY}))
    socket = tmp_path / "ws4redis.socket"
    socket.write_text((DEPLOY / "ws4redis.socket").read_text())
    return service, socket


def analyze(*words):
    return subprocess.run(["systemd-analyze", *words], capture_output=True, text=True, timeout=DEADLINE * 3)


def test_systemd_verifies_the_units_without_complaint(units):
    done = analyze("verify", "--man=no", *units)
    # Of units of the machine itself it may say what it likes.
    said = [line for line in (done.stdout + done.stderr).splitlines() if "ws4redis" in line]
    assert said == []


def test_the_gateway_has_few_rights(units):
    # 0 is nothing at all, 10 is everything; a unit without any of these lines has 9.6.
    done = analyze("security", "--offline=true", "--threshold=20", units[0])
    assert done.returncode == 0, done.stdout[-300:] + done.stderr
