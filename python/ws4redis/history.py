"""Histories: streams in Redis with the last messages of each channel, for pages that resume and for views.

`WS4REDIS_HISTORY` selects the facilities, and has to say the same as the gateway's `[[history]]` tables.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timezone
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Final, cast

import redis

from ws4redis import settings

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

# The gateway runs the same script, src/redis/history.lua. KEYS: the stream, the channel. ARGV: messages to keep, seconds to
# keep the stream, seconds to persist the message (0: not), the message, the live channel.
PUBLISH: Final = """\
local id = redis.call('XADD', KEYS[1], 'MAXLEN', '~', ARGV[1], '*', 'd', ARGV[4])
redis.call('EXPIRE', KEYS[1], ARGV[2])
if ARGV[3] ~= '0' then redis.call('SETEX', KEYS[2], ARGV[3], ARGV[4]) end
redis.call('PUBLISH', ARGV[5], id .. ' ' .. ARGV[4])
return redis.call('PUBLISH', KEYS[2], ARGV[4])
"""

MAX_MESSAGES: Final = 1_000_000
MAX_SECONDS: Final = 366 * 86_400

# For the estimate of memory: a typical message, and what Redis adds per message and per stream.
TYPICAL_BYTES: Final = 500
ENTRY_BYTES: Final = 140
STREAM_BYTES: Final = 5 * 1024


class HistoryRefused(redis.ResponseError):
    """Redis refuses the script of histories: nothing was published, or only a part of it."""


@dataclass(frozen=True)
class HistoryMessage:
    """A message of a history.

    Attributes:
        id: The id of the stream's entry, such as `1700000000000-0`; ids rise in the order of publication.
        message: The payload.
    """

    id: str
    message: bytes

    @property
    def time(self) -> datetime:
        """The time of the publication, by Redis' clock, in UTC."""
        return datetime.fromtimestamp(int(self.id.partition("-")[0]) / 1000, tz=timezone.utc)


@dataclass(frozen=True)
class HistoryLimits:
    """How much of a channel is kept.

    Attributes:
        messages: Number of messages.
        seconds: Seconds after its last message for which a stream lives.
    """

    messages: int = 100
    seconds: int = 3600


@dataclass(frozen=True)
class HistoryRule:
    """One item of `WS4REDIS_HISTORY`.

    Attributes:
        facility: Patterns of facilities, with `*` and `?`.
        limits: How much is kept.
    """

    facility: tuple[str, ...]
    limits: HistoryLimits

    @classmethod
    def parse(cls, item: object) -> HistoryRule:
        """Return the rule that an item describes.

        Raises:
            ValueError: The item has a wrong form; the text says which is right.
        """
        if isinstance(item, str):
            item = {"facility": [item]}
        if not isinstance(item, Mapping) or not set(item) <= {"facility", "messages", "seconds"}:
            raise ValueError("expected patterns, or dicts with facility, messages and seconds")
        facility = item.get("facility")
        if isinstance(facility, str):
            facility = [facility]
        if (
            not isinstance(facility, (list, tuple))
            or not facility
            or not all(isinstance(pattern, str) for pattern in facility)
        ):
            raise ValueError("facility must be a list of patterns, such as ['chat-*']")
        limits = HistoryLimits(item.get("messages", 100), item.get("seconds", 3600))
        for name, number, most in (
            ("messages", limits.messages, MAX_MESSAGES),
            ("seconds", limits.seconds, MAX_SECONDS),
        ):
            if isinstance(number, bool) or not isinstance(number, int) or not 1 <= number <= most:
                raise ValueError(f"{name} must be an int from 1 to {most}")
        return cls(tuple(facility), limits)

    def as_table(self) -> dict[str, object]:
        """Return the rule as the gateway reports its own."""
        return {
            "facility": list(self.facility),
            "messages": self.limits.messages,
            "seconds": self.limits.seconds,
        }


def rules() -> list[HistoryRule]:
    """Return the rules of `WS4REDIS_HISTORY`, in order.

    Raises:
        ValueError: The setting has a wrong form.
    """
    given = settings.WS4REDIS_HISTORY
    if not given:
        return []
    if not isinstance(given, (list, tuple)):
        raise ValueError("expected a list of patterns, or of dicts with facility, messages and seconds")
    return [HistoryRule.parse(item) for item in given]


def limits_of(facility: str) -> HistoryLimits | None:
    """Return how much of a facility is kept: the first rule that matches decides. None: it keeps no history.

    Raises:
        ValueError: `WS4REDIS_HISTORY` has a wrong form.
    """
    for rule in rules():
        if any(_compiled(pattern).fullmatch(facility) for pattern in rule.facility):
            return rule.limits
    return None


def stream_key(prefix: str, channel: str) -> str:
    """Return the key of the stream with the messages of a channel.

    Args:
        prefix: The prefix with its colon, or an empty string.
        channel: Name with the prefix.
    """
    return f"{prefix}ws4redis:history:{channel[len(prefix) :]}"


def live_channel(prefix: str, channel: str) -> str:
    """Return the channel on which a channel's messages are published with their ids.

    Args:
        prefix: The prefix with its colon, or an empty string.
        channel: Name with the prefix.
    """
    return f"{prefix}ws4redis:live:{channel[len(prefix) :]}"


def names_in_cluster(prefix: str, channel: str) -> tuple[str, str] | None:
    """Return the key and the channel of `stream_key` and `live_channel` in the slot of a cluster that holds the channel.

    Args:
        prefix: The prefix with its colon, or an empty string.
        channel: Name with the prefix.

    Returns:
        None if braces in the channel's name prevent them: its messages are only published.
    """
    tag = _hash_tag(channel)
    rest = channel[len(prefix) :] if tag is not None else f"{{{channel}}}"
    key, live = f"{prefix}ws4redis:history:{rest}", f"{prefix}ws4redis:live:{rest}"
    return (key, live) if _hash_tag(key) == (channel if tag is None else tag) else None


def _hash_tag(name: str) -> str | None:
    """Return the part of a key that determines its slot in a cluster, or None if the whole key does."""
    _, brace, rest = name.partition("{")
    tag, closing, _ = rest.partition("}")
    return tag if brace and closing and tag else None


def arguments(
    prefix: str,
    channel: str,
    limits: HistoryLimits,
    payload: bytes,
    seconds: int,
    names: tuple[str, str] | None = None,
) -> list[Any]:
    """Return the arguments of redis-py's `eval` that publish a message.

    Args:
        prefix: The prefix with its colon, or an empty string.
        channel: Name with the prefix.
        limits: How much is kept.
        payload: The message.
        seconds: Seconds that the message is persisted; 0 or negative: not persisted.
        names: The result of `names_in_cluster`; None without a cluster.
    """
    stream, live = names or (stream_key(prefix, channel), live_channel(prefix, channel))
    return [
        PUBLISH,
        2,
        stream,
        channel,
        limits.messages,
        limits.seconds,
        max(seconds, 0),
        payload,
        live,
    ]


def refusal(error: redis.ResponseError) -> HistoryRefused | None:
    """Return the error with its cure if it says that Redis does not execute the script, else None."""
    text = str(error)
    is_denied = isinstance(error, redis.exceptions.NoPermissionError) or text.startswith("NOPERM")
    is_unknown = "unknown command" in text.lower() and "eval" in text.lower()
    if not (is_denied or is_unknown or "executing the script" in text):
        return None
    return HistoryRefused(
        'Redis refuses the script that WS4REDIS_HISTORY needs. Grant +eval and the rights of "History" in '
        "docs/security.md to the user of WS4REDIS_CONNECTION, or remove the facility from the setting and from the "
        "gateway's [[history]] tables"
    )


def probe(client: redis.Redis, prefix: str) -> None:
    """Publish as to a facility with a history, in one that nobody uses.

    Raises:
        HistoryRefused: Redis refuses the script.
        redis.RedisError: Redis is unreachable.
    """
    channel = f"{prefix}broadcast:ws4redis-check"
    names = names_in_cluster(prefix, channel) if isinstance(client, redis.RedisCluster) else None
    try:
        client.eval(*arguments(prefix, channel, HistoryLimits(1, 1), b"check", 0, names))
    except redis.ResponseError as error:
        raise refusal(error) or error from None


def estimates() -> Iterator[str]:
    """Yield for each rule what it keeps, and the memory that one channel can take.

    Raises:
        ValueError: `WS4REDIS_HISTORY` has a wrong form.
    """
    for rule in rules():
        memory = STREAM_BYTES + rule.limits.messages * (TYPICAL_BYTES + ENTRY_BYTES)
        yield (
            f"history {' '.join(rule.facility)}: {rule.limits.messages} messages for {rule.limits.seconds} s; a channel "
            f"with messages of {TYPICAL_BYTES} bytes takes up to {-(-memory // 1024)} KiB of Redis' memory, "
            f"1000 channels {-(-memory * 1000 // 1024**2)} MiB"
        )


def read(client: redis.Redis, key: str, count: int) -> list[HistoryMessage]:
    """Return the last messages of a stream, at most `count`, in the order of publication.

    Raises:
        redis.RedisError: Redis is unreachable or refuses the command.
    """
    entries = cast("Iterable[tuple[Any, Any]]", client.xrevrange(key, count=count))
    messages = []
    for entry_id, fields in entries:
        for name, value in (fields or {}).items():
            if name in (b"d", "d"):
                # The site may have set decode_responses.
                payload = value if isinstance(value, bytes) else value.encode()
                messages.append(HistoryMessage(_text(entry_id), payload))
    return messages[::-1]


def _text(value: bytes | str) -> str:
    return value if isinstance(value, str) else value.decode()


@lru_cache(maxsize=256)
def _compiled(pattern: str) -> re.Pattern[str]:
    wildcards = {"*": ".*", "?": "."}
    return re.compile("".join(wildcards.get(one) or re.escape(one) for one in pattern), re.DOTALL)
