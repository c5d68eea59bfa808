"""For a site's own tests: what is published is recorded, and nothing is written to the site's Redis.

While Django's test runner, or pytest-django, is at work, the package neither publishes nor writes the keys of users: a
test's user with the primary key 1 would overwrite the real one. `capture_publications` shows what would have been
published; `redis_for_tests` lets a test use the real Redis under a prefix of its own.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any
from uuid import uuid4

from ws4redis import connection, settings


@dataclass(frozen=True)
class Publication:
    """A message that a test would have published."""

    # With the prefix, as `broadcast:foobar` or `user:john:foobar`.
    channel: str
    message: bytes
    # Seconds for which it would have been kept; 0: not at all.
    expire: int


_captures: list[list[Publication]] = []
_live = 0


def is_muted() -> bool:
    """Returns whether this process runs tests that have not asked for Redis."""
    utils = sys.modules.get("django.test.utils")
    # Set by setup_test_environment(), which all runners call, until teardown_test_environment().
    return not _live and utils is not None and hasattr(getattr(utils, "_TestState", None), "saved_data")


def record(publication: Publication) -> None:
    """Shows a publication to all captures."""
    for captured in list(_captures):
        captured.append(publication)


def kept(channel: str) -> bytes | None:
    """Returns the message that would be kept for a channel, of the innermost capture."""
    published = reversed(_captures[-1]) if _captures else iter(())
    return next((one.message for one in published if one.channel == channel and one.expire), None)


@contextmanager
def capture_publications() -> Iterator[list[Publication]]:
    """Gives a list of all that is published inside, also by other threads; works with and without Redis' presence.

    With TestCase, what waits for a commit needs `captureOnCommitCallbacks(execute=True)` inside.
    """
    captured: list[Publication] = []
    _captures.append(captured)
    try:
        yield captured
    finally:
        _captures[:] = [other for other in _captures if other is not captured]


@contextmanager
def redis_for_tests(prefix: str | None = None) -> Iterator[str]:
    """Uses the Redis of WS4REDIS_CONNECTION inside, under a prefix of the test's own, which it gives; then deletes its keys.

    Raises ValueError for the site's own prefix.
    """
    global _live
    from django.test import override_settings

    name = prefix or f"ws4redis-test-{uuid4().hex}"
    if name == settings.WS4REDIS_PREFIX:
        raise ValueError(f"{name!r} is WS4REDIS_PREFIX; a test needs a prefix of its own")
    with override_settings(WS4REDIS_PREFIX=name):
        _live += 1
        try:
            yield name
        finally:
            _live -= 1
            client = connection.client()
            pattern = re.sub(r"([\\*?\[\]])", r"\\\1", name) + ":*"
            left: list[Any] = list(client.scan_iter(match=pattern, count=1000))
            if left:
                client.delete(*left)
