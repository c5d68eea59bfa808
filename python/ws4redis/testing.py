"""For a site's own tests: what is published is recorded, and nothing is written to the site's Redis.

While Django's test runner, or pytest-django, is at work, the package neither publishes nor writes the keys of users: a
test's user with the primary key 1 would overwrite the real one. `capture_publications` shows what would have been
published; `redis_for_tests` lets a test use the real Redis under a prefix of its own.

It begins with `setup_test_environment()`, which all runners call, and ends with `teardown_test_environment()`. It holds for
all threads of the process, and for forked ones, but not for other processes that a test starts.
"""

from __future__ import annotations

import logging
import re
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final
from uuid import uuid4

from ws4redis import connection, settings

log = logging.getLogger("ws4redis")

# The first words of the names in Redis, behind the prefix.
OWN_NAMES: Final = ("broadcast", "group", "session", "user", "ws4redis")


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
_warned = False


def is_muted() -> bool:
    """Returns whether this process runs tests that have not asked for Redis."""
    utils = sys.modules.get("django.test.utils")
    # Set by setup_test_environment(), which all runners call, until teardown_test_environment().
    return not _live and utils is not None and hasattr(getattr(utils, "_TestState", None), "saved_data")


def warn_once() -> None:
    """Logs that nothing is written to Redis, where no test runner is known to be at work: in a shell, or a server."""
    global _warned
    if _warned or "pytest" in sys.modules or "test" in sys.argv[1:2]:
        return
    _warned = True
    log.warning(
        "setup_test_environment() was called in this process; nothing is published or written to Redis. "
        "Call teardown_test_environment() to publish again"
    )


def record(channels: Iterable[str], message: bytes, expire: int) -> None:
    """Shows what is published to all captures."""
    for captured in list(_captures):
        captured.extend(Publication(channel, bytes(message), max(expire, 0)) for channel in channels)


def kept(channel: str) -> bytes | None:
    """Returns the message that would be kept for a channel, of the innermost capture."""
    published = reversed(_captures[-1]) if _captures else iter(())
    return next((one.message for one in published if one.channel == channel and one.expire), None)


@contextmanager
def capture_publications() -> Iterator[list[Publication]]:
    """Gives a list of all that is published inside, also by other threads; works with and without Redis, also within `redis_for_tests`.

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

    Raises ValueError for the site's own prefix, and for one under which the site has names, as `ws4redis` and `user`.
    """
    global _live
    from django.test import override_settings

    name = prefix or f"ws4redis-test-{uuid4().hex}"
    if _is_of_the_site(name):
        raise ValueError(
            f"{name!r} is WS4REDIS_PREFIX or begins names of the site; a test needs a prefix of its own"
        )
    with override_settings(WS4REDIS_PREFIX=name):
        _live += 1
        try:
            yield name
        finally:
            _live -= 1
            _delete_keys(name)


def _is_of_the_site(name: str) -> bool:
    site = settings.WS4REDIS_PREFIX
    start = f"{site}:" if site else ""
    return start.startswith(f"{name}:") or f"{name}:".startswith(tuple(f"{start}{own}:" for own in OWN_NAMES))


def _delete_keys(prefix: str) -> None:
    client = connection.client()
    for own in OWN_NAMES:
        # Only names of this package: a cache may have the same prefix.
        pattern = re.sub(r"([\\*?\[\]])", r"\\\1", f"{prefix}:{own}") + ":*"
        left: list[Any] = list(client.scan_iter(match=pattern, count=1000))
        if left:
            client.delete(*left)
