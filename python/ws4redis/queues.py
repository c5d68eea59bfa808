"""The Redis keys that workers share: a stream with a consumer group or a list, and the stream of failed events.

An event that a worker has read stays in Redis until it is handled or parked, so that another worker can claim it after
a crash. Every event is handled at least once.
"""

from __future__ import annotations

import hashlib
import logging
import time
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from contextlib import suppress
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import redis
from redis.client import NEVER_DECODE

from ws4redis import connection
from ws4redis.events import LIST, Event, EventsKey, MalformedEvent

if TYPE_CHECKING:
    from redis.client import Pipeline

log = logging.getLogger("ws4redis.worker")

# The consumer group of all workers of a site.
GROUP: Final = "ws4redis"
# Entries of the stream of failed events.
MAX_FAILED: Final = 10_000
# Consumers of workers that ended are removed after this time, if no event is assigned to them.
STALE_CONSUMER_SECONDS: Final = 3600
CRASH_COUNT_SECONDS: Final = 86_400
PAGE: Final = 1000


class Delivery(NamedTuple):
    """An event that this worker has to handle.

    Attributes:
        id: ID of the stream's entry, or the payload itself for a list.
        payload: The event's JSON.
        number: 1 for the first delivery; each worker that ended while it had the event adds one.
    """

    id: bytes
    payload: bytes
    number: int


def client(key: str) -> redis.Redis:
    """Return a client of the server that holds a key, whose replies to commands of streams are as Redis sends them.

    redis-py's own forms differ with its version and with `protocol` and `decode_responses` in WS4REDIS_CONNECTION.

    Raises:
        TypeError: As for `ws4redis.connection.pool`.
        ValueError: As for `ws4redis.connection.pool`.
    """
    created = redis.Redis(connection_pool=connection.pool_of(key))
    for command in ("XCLAIM", "XPENDING", "XRANGE", "XREADGROUP"):
        created.set_response_callback(command, lambda reply, **_: reply)
    return created


class EventQueue(ABC):
    """The deliveries of one worker. `renew` may run in another thread than all other methods."""

    def __init__(self, client: redis.Redis, key: str, name: str, claim_seconds: float) -> None:
        """Prepare, without a command.

        Args:
            client: The result of `client()`.
            key: Name of the stream or list.
            name: Name of this worker; no two workers that run at the same time have the same.
            claim_seconds: Time after the last sign of life of a worker until others may claim its events.
        """
        self._client = client
        self._key = key
        self._name = name
        self._claim_seconds = claim_seconds
        self._held: dict[bytes, Delivery] = {}
        self._renewed = time.monotonic()

    @property
    def is_lease_valid(self) -> bool:
        """False if other workers may have claimed the events of this one, after an outage or a pause."""
        return time.monotonic() - self._renewed < self._claim_seconds

    @abstractmethod
    def open(self) -> None:
        """Create what workers need in Redis, if it is missing."""

    @abstractmethod
    def read(self, count: int, wait_seconds: float) -> list[Delivery]:
        """Return new events, at most `count`. Wait for the first one; 0 does not wait."""

    @abstractmethod
    def claim(self, *, own: bool = False) -> Iterator[Delivery]:
        """Claim and yield events of workers that ended, one by one.

        Args:
            own: Claim events that an earlier worker with the same name had, without waiting `claim_seconds`.
        """

    @abstractmethod
    def renew(self) -> None:
        """Give a sign of life, so that others do not claim this worker's events."""

    @abstractmethod
    def hand_back(self) -> None:
        """Let other workers have the events that this one has not handled, without waiting `claim_seconds`."""

    @abstractmethod
    def close(self) -> None:
        """Remove this worker's traces from Redis if it has handled all its events."""

    @abstractmethod
    def _remove(self, pipeline: Pipeline, delivery: Delivery) -> None:
        """Queue the commands after which the event is not delivered again."""

    def acknowledge(self, delivery: Delivery) -> None:
        """Remove a handled event."""
        pipeline = self._client.pipeline(transaction=False)
        self._remove(pipeline, delivery)
        pipeline.execute()
        self._held.pop(delivery.id, None)

    def park(self, delivery: Delivery, error: str, tries: int) -> None:
        """Move an event to the stream of failed events."""
        pipeline = self._client.pipeline(transaction=True)
        # An error may quote lone surrogates of a client, which UTF-8 does not have.
        text = error.encode("utf-8", "backslashreplace")
        fields: dict[Any, Any] = {"data": delivery.payload, "error": text, "tries": tries}
        pipeline.xadd(failed_key(self._key), fields, maxlen=MAX_FAILED, approximate=True)
        self._remove(pipeline, delivery)
        pipeline.execute()
        self._held.pop(delivery.id, None)

    def forget(self) -> None:
        """Give up the events that others may have claimed."""
        self._held.clear()

    def _hold(self, delivery: Delivery) -> Delivery:
        self._held[delivery.id] = delivery
        return delivery

    def _command(self, *words: str | bytes | float) -> Any:  # noqa: ANN401 - a reply of Redis
        return self._client.execute_command(*words, **{NEVER_DECODE: True})


class StreamQueue(EventQueue):
    """A stream with the consumer group `ws4redis`, in which each worker is a consumer."""

    def open(self) -> None:
        """Create the stream and the group, and remove consumers of workers that ended long ago."""
        self._create_group()
        for consumer in self._client.xinfo_consumers(self._key, GROUP):
            if not consumer["pending"] and consumer["idle"] > STALE_CONSUMER_SECONDS * 1000:
                self._client.xgroup_delconsumer(self._key, GROUP, consumer["name"])

    def _create_group(self) -> None:
        try:
            # From the first entry: events from before the first worker are handled as well.
            self._client.xgroup_create(self._key, GROUP, id="0", mkstream=True)
        except redis.ResponseError as error:
            if not str(error).startswith("BUSYGROUP"):
                raise

    def read(self, count: int, wait_seconds: float) -> list[Delivery]:
        """Return new events, at most `count`. Wait for the first one; 0 does not wait."""
        renewed = time.monotonic()
        wait = ("BLOCK", max(1, int(wait_seconds * 1000))) if wait_seconds else ()
        try:
            reply = self._command(
                "XREADGROUP", "GROUP", GROUP, self._name, "COUNT", count, *wait, "STREAMS", self._key, ">"
            )
        except redis.ResponseError as error:
            if not _lacks_group(error):
                raise
            # Somebody deleted the stream, or Redis lost its data.
            self._create_group()
            return []
        self._renewed = renewed
        if not reply:
            return []
        # RESP2: [[key, entries]], RESP3: {key: entries}.
        entries = next(iter(reply.values())) if isinstance(reply, dict) else reply[0][1]
        return [self._hold(Delivery(id, _payload(fields), 1)) for id, fields in entries]

    def claim(self, *, own: bool = False) -> Iterator[Delivery]:
        """Claim and yield events of workers that ended, one by one: one that crashes its worker affects no other."""
        idle_ms = 0 if own else int(self._claim_seconds * 1000)
        consumer = (self._name,) if own else ()
        start = b"-"
        while True:
            try:
                page = self._command("XPENDING", self._key, GROUP, start, "+", PAGE, *consumer)
            except redis.ResponseError as error:
                if _lacks_group(error):
                    return
                raise
            # XPENDING and XCLAIM, since XAUTOCLAIM does not return the number of deliveries.
            for id, _, idle, number in page:
                if id in self._held or int(idle) < idle_ms:
                    continue
                self._renewed = time.monotonic()
                claimed = self._command("XCLAIM", self._key, GROUP, self._name, idle_ms, id)
                if claimed and claimed[0]:
                    yield self._hold(Delivery(id, _payload(claimed[0][1]), int(number) + 1))
                elif not self._command("XRANGE", self._key, id, id):
                    log.warning(
                        "event %s was trimmed from the stream before it was handled, and is lost; "
                        "increase events.keep in the gateway's settings",
                        id.decode(),
                    )
                    self._client.xack(self._key, GROUP, id)
            if len(page) < PAGE:
                return
            milliseconds, _, number = page[-1][0].partition(b"-")
            start = b"%s-%d" % (milliseconds, int(number) + 1)

    def renew(self) -> None:
        """Reset the idle time of this worker's events, unless others may have claimed them."""
        renewed = time.monotonic()
        ids = list(self._held)
        if ids and self.is_lease_valid:
            self._command("XCLAIM", self._key, GROUP, self._name, 0, *ids, "JUSTID")
            self._renewed = renewed

    def hand_back(self) -> None:
        """Make the remaining events look idle for `claim_seconds`."""
        if not self.is_lease_valid:
            return
        idle_ms = int(self._claim_seconds * 1000)
        for delivery in self._held.values():
            # Without counting this delivery, since the worker has not crashed.
            options = ("IDLE", idle_ms, "RETRYCOUNT", delivery.number - 1, "JUSTID")
            self._command("XCLAIM", self._key, GROUP, self._name, 0, delivery.id, *options)
        self._held.clear()

    def close(self) -> None:
        """Remove the consumer, unless events are assigned to it: Redis would forget that they are unhandled."""
        if not self._command("XPENDING", self._key, GROUP, "-", "+", 1, self._name):
            self._client.xgroup_delconsumer(self._key, GROUP, self._name)

    def _remove(self, pipeline: Pipeline, delivery: Delivery) -> None:
        pipeline.xack(self._key, GROUP, delivery.id)


class ListQueue(EventQueue):
    """A list. Each worker moves one event at a time to a list of its own, and removes it from there after handling.

    `KEY:workers` contains the workers by their last sign of life, `KEY:processing:NAME` is the list of one of them,
    and `KEY:crashes` counts how many workers ended while they had an event.
    """

    def __init__(self, client: redis.Redis, key: str, name: str, claim_seconds: float) -> None:
        """Prepare, without a command. Parameters are those of `EventQueue`."""
        super().__init__(client, key, name, claim_seconds)
        self._workers = f"{key}:workers"
        self._crashes = f"{key}:crashes"
        self._processing = self._processing_of(name)

    def _processing_of(self, name: str) -> str:
        return f"{self._key}:processing:{name}"

    def open(self) -> None:
        """Add the worker to `KEY:workers`."""
        self.renew()

    def read(self, count: int, wait_seconds: float) -> list[Delivery]:
        """Return the next event. Wait for it; 0 does not wait."""
        if time.monotonic() - self._renewed > self._claim_seconds / 2:
            # Others find the list of this worker by its name in KEY:workers only.
            self.renew()
        payload = (
            self._command("BLMOVE", self._key, self._processing, "LEFT", "RIGHT", wait_seconds)
            if wait_seconds
            else self._command("LMOVE", self._key, self._processing, "LEFT", "RIGHT")
        )
        return [] if payload is None else [self._hold(Delivery(payload, payload, 1))]

    def claim(self, *, own: bool = False) -> Iterator[Delivery]:
        """Claim and yield events of workers that ended, and own ones whose delivery was lost with a connection."""
        if not self.is_lease_valid:
            self.renew()
        for payload in self._command("LRANGE", self._processing, 0, -1):
            if payload not in self._held:
                yield self._crashed(payload)
        if own:
            return
        latest = self._now() - self._claim_seconds
        for name in self._command("ZRANGEBYSCORE", self._workers, "-inf", f"({latest}"):
            if name == self._name.encode():
                continue
            processing = self._processing_of(name.decode())
            # The worker may come back meanwhile: it keeps its events and its entry.
            while self._is_stale(name, latest) and (
                payload := self._command("LMOVE", processing, self._processing, "LEFT", "RIGHT")
            ):
                yield self._crashed(payload)
            self._remove_stale(name, processing, latest)

    def _is_stale(self, name: bytes, latest: float, commands: redis.Redis | None = None) -> bool:
        renewed = (commands or self._client).zscore(self._workers, name)
        return renewed is None or renewed < latest

    def _remove_stale(self, name: bytes, processing: str, latest: float) -> None:
        with self._client.pipeline(transaction=True) as pipeline:
            pipeline.watch(self._workers, processing)
            if not self._is_stale(name, latest, pipeline) or pipeline.llen(processing):
                return
            pipeline.multi()
            pipeline.zrem(self._workers, name)
            with suppress(redis.WatchError):
                # Changed meanwhile: the next claim tries again.
                pipeline.execute()

    def _crashed(self, payload: bytes) -> Delivery:
        crashes = self._client.hincrby(self._crashes, _digest(payload), 1)
        self._client.expire(self._crashes, CRASH_COUNT_SECONDS)
        return self._hold(Delivery(payload, payload, int(crashes) + 1))

    def renew(self) -> None:
        """Write the current time to `KEY:workers`."""
        renewed = time.monotonic()
        self._client.zadd(self._workers, {self._name: self._now()})
        self._renewed = renewed

    def _now(self) -> float:
        seconds, microseconds = self._command("TIME")
        # redis-py's callback returns numbers.
        return int(seconds) + int(microseconds) / 1e6

    def hand_back(self) -> None:
        """Move the remaining event back, to be the next one."""
        while self._held:
            self._command("LMOVE", self._processing, self._key, "RIGHT", "LEFT")
            self._held.popitem()

    def close(self) -> None:
        """Remove the worker from `KEY:workers`, unless its list has events."""
        if not self._client.llen(self._processing):
            self._client.zrem(self._workers, self._name)

    def _remove(self, pipeline: Pipeline, delivery: Delivery) -> None:
        pipeline.lrem(self._processing, 1, delivery.payload)  # type: ignore[arg-type] # bytes are a value, too
        if delivery.number > 1:
            pipeline.hdel(self._crashes, _digest(delivery.payload))


def open_queue(key: EventsKey, name: str, claim_seconds: float) -> EventQueue:
    """Return the queue of a worker. Parameters are those of `EventQueue`."""
    kind = ListQueue if key.kind == LIST else StreamQueue
    return kind(client(key.name), key.name, name, claim_seconds)


# ---- Failed events ---------------------------------------------------------------------------------------------------


class FailedEvent(NamedTuple):
    """An event in the stream `KEY:failed`."""

    id: str
    time: datetime
    payload: bytes
    error: str
    tries: str

    @property
    def title(self) -> str:
        """The type of the event, with its facility or name."""
        try:
            event = Event.from_json(self.payload)
        except MalformedEvent:
            return "malformed"
        return " ".join(filter(None, (event.type, event.event or event.facility)))


def failed_key(key: str) -> str:
    """Return the name of the stream of failed events."""
    return f"{key}:failed"


def failed_events(key: EventsKey) -> Iterator[FailedEvent]:
    """Yield the failed events, the oldest first."""
    start = "-"
    while True:
        page = client(key.name).execute_command(
            "XRANGE", failed_key(key.name), start, "+", "COUNT", 100, **{NEVER_DECODE: True}
        )
        for id, words in page:
            fields = _fields(words)
            milliseconds, _, number = id.decode().partition("-")
            start = f"{milliseconds}-{int(number) + 1}"
            yield FailedEvent(
                id.decode(),
                datetime.fromtimestamp(int(milliseconds) / 1000, timezone.utc),
                fields.get(b"data", b""),
                fields.get(b"error", b"").decode(errors="replace"),
                fields.get(b"tries", b"").decode(errors="replace"),
            )
        if not page:
            return


def requeue(key: EventsKey, events: Iterable[FailedEvent]) -> int:
    """Move failed events back, behind the events that wait. Return their number."""
    count = 0
    for event in events:
        pipeline = client(key.name).pipeline(transaction=True)
        if key.kind == LIST:
            pipeline.rpush(key.name, event.payload)
        else:
            pipeline.xadd(key.name, {"data": event.payload})
        pipeline.xdel(failed_key(key.name), event.id)
        pipeline.execute()
        count += 1
    return count


def _lacks_group(error: redis.ResponseError) -> bool:
    return str(error).startswith("NOGROUP")


def _fields(words: list[bytes]) -> dict[bytes, bytes]:
    return dict(zip(words[::2], words[1::2]))


def _payload(words: list[bytes] | None) -> bytes:
    # Deleted entries have no fields.
    return _fields(words or []).get(b"data", b"")


def _digest(payload: bytes) -> str:
    return hashlib.sha256(payload).hexdigest()
