"""Calls of django-websocket-redis 0.6.0 and of this package give the same keys, channels, payloads and TTLs."""

import json
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
from conftest import SERVER
from stores import commands

UPSTREAM = os.environ.get("WS4REDIS_UPSTREAM_PYTHON")
PUBLICATIONS = Path(__file__).with_name("publications.py")

pytestmark = pytest.mark.skipif(
    UPSTREAM is None, reason="WS4REDIS_UPSTREAM_PYTHON is not set; see tests/run-python"
)


def run(python, settings, store):
    """Runs the cases; returns their results, and their Redis commands."""
    store.flushall()
    with commands(store) as seen:
        done = subprocess.run(
            [python, PUBLICATIONS, SERVER.path, json.dumps(settings)],
            capture_output=True,
            text=True,
            check=False,
        )
    assert done.returncode == 0, done.stderr
    by_case, current = {}, None
    for words in seen:
        if words[0] == "ECHO":
            current = by_case.setdefault(words[1], [])
        else:
            current.append(words)
    return json.loads(done.stdout), by_case


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"WS4REDIS_EXPIRE": 7, "WS4REDIS_PREFIX": "demo"},
        {"WS4REDIS_EXPIRE": 0, "WS4REDIS_PREFIX": ""},
        {"WS4REDIS_EXPIRE": -1, "WS4REDIS_PREFIX": "a:", "WS4REDIS_HEARTBEAT": "--heartbeat--"},
        {"WS4REDIS_EXPIRE": False},
    ],
    ids=str,
)
def test_both_packages_send_the_same_commands(store, settings):
    theirs, their_commands = run(UPSTREAM, settings, store)
    ours, our_commands = run(sys.executable, settings, store)
    assert ours == theirs
    assert list(our_commands) == list(their_commands)
    assert len(our_commands) > 30
    for case, sent in our_commands.items():
        if case.startswith("fetch"):
            assert sent == their_commands[case]
        else:
            # The order differs: this package stores a message before it publishes it, and sorts the channels.
            assert Counter(map(tuple, sent)) == Counter(map(tuple, their_commands[case])), case


def test_the_comparison_sees_commands(store):
    _, by_case = run(sys.executable, {}, store)
    assert by_case["expire"] == [
        ["SETEX", "broadcast:foobar", "10", "Hello"],
        ["PUBLISH", "broadcast:foobar", "Hello"],
    ]
    assert by_case["nothing"] == []
