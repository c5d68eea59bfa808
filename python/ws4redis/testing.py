"""Helpers for a site's own tests: publications are recorded, and nothing is written to the site's Redis.

While Django's test runner or pytest-django runs, the package neither publishes nor writes the keys of users: a test
user with the primary key 1 would overwrite the key of the real one. `capture_publications` returns the publications;
`redis_for_tests` lets a test use the real Redis under a separate prefix.

Muting starts with `setup_test_environment()`, which all test runners call, and ends with
`teardown_test_environment()`. It covers all threads and forks of the process, but no other processes that a test
starts.
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
from ws4redis.history import HistoryMessage

log = logging.getLogger("ws4redis")

# First words of all keys and channels of the package, after the prefix.
OWN_NAMES: Final = ("broadcast", "group", "session", "user", "ws4redis")


@dataclass(frozen=True)
class Publication:
    """A message that the code under test published.

    Attributes:
        channel: Name with the prefix, such as `broadcast:foobar` or `user:john:foobar`; that of
            `ws4redis.socketio.Emitter` has none.
        message: The payload.
        expire: Seconds that the message is persisted; 0: not persisted.
        history: The message is kept in the stream of the channel.
    """

    channel: str
    message: bytes
    expire: int
    history: bool = False


_captures: list[list[Publication]] = []
_live = 0
_test_prefix: str | None = None
_warned = False


def is_muted() -> bool:
    """Return True if this process runs tests that did not request Redis."""
    utils = sys.modules.get("django.test.utils")
    # setup_test_environment() sets the attribute, teardown_test_environment() removes it.
    return not _live and utils is not None and hasattr(getattr(utils, "_TestState", None), "saved_data")


def is_observed() -> bool:
    """Return True if publications are captured, or this process is muted."""
    return bool(_captures) or is_muted()


def warn_once() -> None:
    """Log a warning if the process is muted without a known test runner, as in a shell or a server. Once only."""
    global _warned
    if _warned or "pytest" in sys.modules or "test" in sys.argv[1:2]:
        return
    _warned = True
    log.warning(
        "setup_test_environment() was called in this process; nothing is published or written to Redis. "
        "Call teardown_test_environment() to publish again"
    )


def record(channels: Iterable[str], message: bytes, expire: int, history: bool = False) -> None:
    """Append a publication to all active captures.

    Args:
        channels: Names with the prefix.
        message: The payload.
        expire: Seconds that the message is persisted; 0 or negative: not persisted.
        history: The message is kept in the streams of the channels.
    """
    for captured in list(_captures):
        captured.extend(Publication(channel, bytes(message), max(expire, 0), history) for channel in channels)


def intercept(channels: Iterable[str], message: bytes, expire: int, history: bool = False) -> bool:
    """Record a publication. Return True if the process is muted: it must not be sent to Redis.

    Args:
        channels: Names with the prefix.
        message: The payload.
        expire: Seconds that the message is persisted; 0 or negative: not persisted.
        history: The message is kept in the streams of the channels.
    """
    record(channels, message, expire, history)
    if not is_muted():
        return False
    warn_once()
    return True


def isolated(channel: str) -> str:
    """Return a name without the prefix of the site; inside `redis_for_tests` with the prefix of the test.

    Such names are the channel `socketio` and the prefix of a channel layer.

    Channels belong to no database: without it, the tests of a site would reach its visitors.
    """
    return f"{_test_prefix}:{channel}" if _test_prefix else channel


def last_persisted(channel: str) -> bytes | None:
    """Return the last message that the innermost capture would persist for a channel, or None."""
    published = reversed(_captures[-1]) if _captures else iter(())
    return next((one.message for one in published if one.channel == channel and one.expire), None)


def kept(channel: str) -> list[HistoryMessage]:
    """Return the messages that the innermost capture would keep in the stream of a channel, with ids of their own."""
    published = _captures[-1] if _captures else []
    messages = [one.message for one in published if one.channel == channel and one.history]
    return [HistoryMessage(f"{index}-0", message) for index, message in enumerate(messages, 1)]


@contextmanager
def capture_publications() -> Iterator[list[Publication]]:
    """Capture all publications of the block, including those of other threads.

    Works with and without Redis, and inside `redis_for_tests`. In a TestCase, publications that wait for a commit
    need `captureOnCommitCallbacks(execute=True)` inside the block.

    Yields:
        The publications in their order; the list grows during the block.
    """
    captured: list[Publication] = []
    _captures.append(captured)
    try:
        yield captured
    finally:
        _captures[:] = [other for other in _captures if other is not captured]


def dispatch_event(type: str, **fields: Any) -> list[object] | None:  # noqa: ANN401 - those of Event
    """Call the site's handlers and receivers for an event, once, as `manage.py ws4redis_worker` does.

    `dispatch_event("message", facility="chat-5", user="john", data="Hello")`

    Args:
        type: Type of the event, such as `message`.
        **fields: Other attributes of `ws4redis.Event`. The dialect of the type `event` is `socket_io` by default, its
            namespace `/`; the dialect of other types that are about one connection is `relay`.

    Returns:
        The arguments of the acknowledgement for an event of Socket.IO; None if the event has no handler.

    Raises:
        Exception: The first exception of a handler or a receiver, after all of them were called.
    """
    from ws4redis import handlers
    from ws4redis.events import CLIENT_EVENT, NODE, OFFLINE, ONLINE, Event

    handlers.discover()
    defaults = {}
    if type == CLIENT_EVENT:
        defaults = {"dialect": "socket_io", "namespace": "/"}
    elif type not in (NODE, OFFLINE, ONLINE):
        defaults = {"dialect": "relay"}
    fields = {
        name: tuple(value) if name in ("args", "audiences") else value for name, value in fields.items()
    }
    run = handlers.HandlerRun(Event(type, **{**defaults, **fields}))
    failures = run.call()
    if failures and failures[0].__cause__ is not None:
        raise failures[0].__cause__
    return run.acknowledgement() if run.is_handled else None


@contextmanager
def redis_for_tests(prefix: str | None = None) -> Iterator[str]:
    """Use the Redis of `WS4REDIS_CONNECTION` in the block, under a separate prefix; delete its keys at the end.

    Args:
        prefix: The prefix, without its colon; None: a unique one.

    Yields:
        The prefix.

    Raises:
        ValueError: The prefix is the site's own, or one under which the site has keys, such as `ws4redis` or `user`.
        redis.RedisError: Redis is unreachable at the end of the block.
    """
    global _live, _test_prefix
    from django.test import override_settings

    name = prefix or f"ws4redis-test-{uuid4().hex}"
    if _belongs_to_site(name):
        raise ValueError(
            f"{name!r} is WS4REDIS_PREFIX or begins names of the site; a test needs a prefix of its own"
        )
    outer = _test_prefix
    with override_settings(WS4REDIS_PREFIX=name):
        _live += 1
        _test_prefix = name
        try:
            yield name
        finally:
            _live -= 1
            _test_prefix = outer
            _delete_keys(name)


def _belongs_to_site(name: str) -> bool:
    site = settings.WS4REDIS_PREFIX
    start = f"{site}:" if site else ""
    return start.startswith(f"{name}:") or f"{name}:".startswith(tuple(f"{start}{own}:" for own in OWN_NAMES))


def _delete_keys(prefix: str) -> None:
    client = connection.client()
    for own in OWN_NAMES:
        # Only keys of this package: a cache may use the same prefix.
        pattern = re.sub(r"([\\*?\[\]])", r"\\\1", f"{prefix}:{own}") + ":*"
        remaining: list[str | bytes] = list(client.scan_iter(match=pattern, count=1000))
        # One by one: in a cluster they are at several nodes.
        for key in remaining:
            client.delete(key)
