"""The loop of `manage.py ws4redis_worker`: reads events of clients, calls their handlers, parks what fails.

The loop waits for new events, for events of workers that ended, for Redis after an outage, and for the next try of a
failed handler. A request to stop ends each of these waits, but no handler.
"""

from __future__ import annotations

import logging
import os
import random
import socket
import threading
import time
from traceback import format_exception_only
from typing import TYPE_CHECKING, Callable, Final, TypeVar

import redis
from django.db import close_old_connections, reset_queries

from ws4redis import connection
from ws4redis.events import CLIENT_EVENT, Event, EventsKey, MalformedEvent
from ws4redis.handlers import HandlerFailure, HandlerRun
from ws4redis.queues import Delivery, EventQueue, open_queue
from ws4redis.redis_store import WrongArgument
from ws4redis.socketio import acknowledge

if TYPE_CHECKING:
    from collections.abc import Iterable

log = logging.getLogger("ws4redis.worker")
T = TypeVar("T")

# Upper bound of one wait for new events, after which a request to stop is noticed.
WAIT_SECONDS: Final = 1.0
PAUSE_STEP_SECONDS: Final = 0.1
HANDLER_BACKOFF_SECONDS: Final = 0.5
REDIS_BACKOFF_SECONDS: Final = 0.5
MAX_BACKOFF_SECONDS: Final = 10.0
MAX_ERROR_CHARS: Final = 1000
# Workers that end while they have an event, before it is parked.
MAX_CRASHES: Final = 3


class WorkerError(Exception):
    """The worker cannot work, and waiting does not help."""


class _Stopped(Exception):
    """The worker is to stop before an event is handled."""


def unique_name() -> str:
    """Return a name for a worker: host, process, and random digits, since containers have equal process IDs."""
    return f"{socket.gethostname()}:{os.getpid()}:{os.urandom(3).hex()}"


class Worker:
    """Handles events until `stop` is called. All numbers are those of the command's options."""

    def __init__(
        self, key: EventsKey, *, name: str, batch: int, claim_seconds: float, retries: int, once: bool
    ) -> None:
        """Prepare, without a command to Redis.

        Args:
            key: The stream or list.
            name: Name of this worker, unique among those that run.
            batch: Events that are read at once.
            claim_seconds: Time after the last sign of life of a worker until others claim its events.
            retries: Further calls of a handler that raised.
            once: Return when no event waits, and raise instead of waiting for Redis.
        """
        self._key = key
        self._queue: EventQueue = open_queue(key, name, claim_seconds)
        self._batch = batch
        self._claim_seconds = claim_seconds
        self._retries = retries
        self._once = once
        self._is_stopping = False
        self._ended = threading.Event()
        self._may_have_lost_events = False
        self._lost_at: float | None = None
        self._outages = 0
        self._opened = False
        self.handled = 0
        self.parked = 0

    def stop(self) -> None:
        """Let `run` return after the current event. Safe in a signal handler."""
        # Not a threading.Event: its lock is not reentrant, and the handler may interrupt its owner.
        self._is_stopping = True

    def run(self) -> None:
        """Handle events.

        Raises:
            WorkerError: The key has another type, the server is too old, or Redis is unreachable with `once`.
        """
        renewal = threading.Thread(target=self._renew, name="ws4redis-renewal", daemon=True)
        renewal.start()
        stopped = False
        try:
            self._retry(self._queue.open)
            self._opened = True
            self._retry(lambda: self._handle_all(self._queue.claim(own=True)))
            self._loop()
        except _Stopped:
            log.info("stopping; unhandled events stay in Redis")
            stopped = True
        finally:
            self._ended.set()
            renewal.join()
            # Not after an exception: an event whose handler exits the process counts as one that crashes it.
            if stopped:
                self._leave(self._queue.hand_back)
            self._leave(self._queue.close)

    def _loop(self) -> None:
        next_claim = time.monotonic()
        while not self._is_stopping:
            if time.monotonic() >= next_claim:
                self._retry(lambda: self._handle_all(self._queue.claim()))
                next_claim = time.monotonic() + min(self._claim_seconds / 2, 30)
            deliveries = self._retry(self._read)
            if not deliveries and self._once:
                return
            self._handle_all(deliveries)

    def _read(self) -> list[Delivery]:
        if self._may_have_lost_events:
            # A reply that was lost with its connection may have delivered events, which are older than the next ones.
            self._handle_all(self._queue.claim(own=True))
            self._may_have_lost_events = False
        return self._queue.read(self._batch, self._wait_seconds())

    def _wait_seconds(self) -> float:
        if self._once:
            return 0
        timeout = connection.pool_of(self._key.name).connection_kwargs.get("socket_timeout")
        return min(WAIT_SECONDS, timeout / 2) if timeout else WAIT_SECONDS

    def _renew(self) -> None:
        while not self._ended.wait(self._claim_seconds / 3):
            try:
                self._queue.renew()
            except redis.RedisError:
                # The main thread notices and logs it.
                continue

    def _leave(self, step: Callable[[], None]) -> None:
        if not self._opened:
            return
        try:
            step()
        except redis.RedisError as error:
            log.warning("cannot deregister from Redis; others claim the remaining events later: %s", error)

    # ---- Events ------------------------------------------------------------------------------------------------------

    def _handle_all(self, deliveries: Iterable[Delivery]) -> None:
        for delivery in deliveries:
            if not self._queue.is_lease_valid:
                log.warning("events were held for longer than --claim-seconds; other workers handle them")
                self._queue.forget()
                return
            self._handle(delivery)
            if self._is_stopping:
                raise _Stopped

    def _handle(self, delivery: Delivery) -> None:
        tries = self._retries + 1
        if delivery.number > MAX_CRASHES:
            self._park(delivery, f"its worker ended {delivery.number - 1} times without handling it")
            return
        try:
            event = Event.from_json(delivery.payload)
        except MalformedEvent as error:
            self._park(delivery, f"MalformedEvent: {error}")
            return
        run = HandlerRun(event)
        for attempt in range(1, tries + 1):
            failures = _call(run)
            if not failures:
                break
            if attempt == tries:
                for failure in failures:
                    log.error("handler failed: %s; the event is parked", failure, exc_info=failure.__cause__)
                self._park(delivery, "; ".join(_last_line(failure) for failure in failures))
                return
            seconds = _backoff(HANDLER_BACKOFF_SECONDS, attempt)
            for failure in failures:
                log.warning(
                    "handler failed, try %d of %d: %s; next try in %.1f s", attempt, tries, failure, seconds
                )
            self._pause(seconds)
        if event.type == CLIENT_EVENT and event.id is not None and run.is_handled:
            self._answer(run)
        self._retry(lambda: self._queue.acknowledge(delivery))
        self.handled += 1

    def _answer(self, run: HandlerRun) -> None:
        try:
            self._retry(lambda: acknowledge(run.event, *run.acknowledgement()))
        except WrongArgument as error:
            # The handler has succeeded; another call could repeat its effects.
            log.error(
                "event %r is not acknowledged: the handler's result is unusable: %s", run.event.event, error
            )

    def _park(self, delivery: Delivery, error: str) -> None:
        log.error("event of type %s parked in %s:failed: %s", _type(delivery), self._key.name, error)
        self._retry(lambda: self._queue.park(delivery, error[:MAX_ERROR_CHARS], self._retries + 1))
        self.parked += 1

    # ---- Outages of Redis --------------------------------------------------------------------------------------------

    def _retry(self, command: Callable[[], T]) -> T:
        """Run commands, again after each failure of Redis.

        Raises:
            WorkerError: As for `run`.
        """
        while True:
            try:
                result = command()
            except redis.RedisError as error:
                self._on_lost(error)
                continue
            if self._lost_at is not None:
                log.info("Redis is back after %.0f s", time.monotonic() - self._lost_at)
                self._lost_at = None
                self._outages = 0
            return result

    def _on_lost(self, error: redis.RedisError) -> None:
        text = str(error)
        if isinstance(error, redis.ResponseError):
            if text.startswith("WRONGTYPE"):
                raise WorkerError(
                    f"the Redis key {self._key.name!r} is not a {self._key.kind}; correct WS4REDIS_EVENTS, which must "
                    "be equal to the gateway's events.to"
                ) from error
            if "unknown command" in text:
                raise WorkerError(
                    "the server lacks a command; streams require Redis 5, lists Redis 6.2, or newer, and the embedded store "
                    "of a gateway has neither: " + text
                ) from error
            if isinstance(error, redis.exceptions.MovedError):
                raise WorkerError(
                    f"the Redis key {self._key.name!r} has moved to another node; start the worker again"
                ) from error
        if self._once:
            raise WorkerError(f"Redis failed: {text}") from error
        if self._lost_at is None:
            self._lost_at = time.monotonic()
            log.error("Redis failed, no events are handled; retrying: %s: %s", type(error).__name__, text)
        self._outages += 1
        self._may_have_lost_events = True
        self._pause(_backoff(REDIS_BACKOFF_SECONDS, self._outages))

    def _pause(self, seconds: float) -> None:
        end = time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0:
            if self._is_stopping:
                raise _Stopped
            time.sleep(min(left, PAUSE_STEP_SECONDS))


def _call(run: HandlerRun) -> list[HandlerFailure]:
    # As Django does around requests: a connection that the database closed is replaced, and with DEBUG the log of
    # queries does not grow.
    reset_queries()
    close_old_connections()
    try:
        return run.call()
    finally:
        close_old_connections()


def _backoff(base: float, attempt: int) -> float:
    longest: float = min(base * 2 ** min(attempt - 1, 10), MAX_BACKOFF_SECONDS)
    return longest * random.uniform(0.5, 1)


def _last_line(failure: HandlerFailure) -> str:
    cause = failure.__cause__
    text = format_exception_only(type(cause), cause)[-1].strip() if cause else ""
    return f"{failure.handler}: {text}"


def _type(delivery: Delivery) -> str:
    try:
        return Event.from_json(delivery.payload).type
    except MalformedEvent:
        return "unknown"
