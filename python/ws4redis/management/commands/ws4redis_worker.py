"""`manage.py ws4redis_worker`: call the site's handlers for the events of clients."""

from __future__ import annotations

import signal
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING

import redis
from django.core.management.base import BaseCommand, CommandError

from ws4redis import handlers, queues, settings, testing
from ws4redis.events import EventsKey
from ws4redis.worker import Worker, WorkerError, unique_name

if TYPE_CHECKING:
    from argparse import ArgumentParser
    from collections.abc import Iterator


class Command(BaseCommand):
    """Handle events until SIGTERM or SIGINT; or list the failed ones, or queue them again."""

    help = "Call the functions in ws4redis_handlers.py of the installed apps for the events of clients."

    def add_arguments(self, parser: ArgumentParser) -> None:
        """Add the options."""
        parser.add_argument(
            "--name",
            help="name of this worker, unique among those that run; after a restart with the same name it continues "
            "with its events at once (default: host, process ID and random digits)",
        )
        parser.add_argument(
            "--batch", type=int, default=10, metavar="N", help="events to read at once (default: 10)"
        )
        parser.add_argument(
            "--claim-seconds",
            type=float,
            default=60,
            metavar="SECONDS",
            help="claim the events of a worker this long after its last sign of life (default: 60)",
        )
        parser.add_argument(
            "--retries",
            type=int,
            default=2,
            metavar="N",
            help="further calls of a handler that raised, before the event is parked (default: 2)",
        )
        parser.add_argument("--once", action="store_true", help="handle the events that wait, and exit")
        parser.add_argument("--failed", action="store_true", help="list the parked events, and exit")
        parser.add_argument(
            "--retry-failed",
            nargs="*",
            metavar="ID",
            help="queue the parked events with these IDs again, or all, and exit",
        )

    # Django passes its own options as well, hence **options.
    def handle(
        self,
        *args: object,
        name: str | None,
        batch: int,
        claim_seconds: float,
        retries: int,
        once: bool,
        failed: bool,
        retry_failed: list[str] | None,
        **options: object,
    ) -> None:
        """Run the worker, list, or requeue.

        Raises:
            CommandError: An option or WS4REDIS_EVENTS is wrong, there are no handlers, the process runs tests, or Redis
                is unreachable where the command does not wait for it.
        """
        if testing.is_muted():
            raise CommandError(
                "this process runs tests, which do not read the site's Redis; "
                "use ws4redis.testing.dispatch_event, or redis_for_tests"
            )
        try:
            key = EventsKey.parse(settings.WS4REDIS_EVENTS)
        except ValueError as error:
            raise CommandError(f"WS4REDIS_EVENTS is {settings.WS4REDIS_EVENTS!r}: {error}") from error
        key = key._replace(name=testing.isolated(key.name))
        try:
            if failed:
                self._list(key)
            elif retry_failed is not None:
                self._requeue(key, retry_failed)
            else:
                self._work(key, name, batch, claim_seconds, retries, once)
        except (WorkerError, redis.RedisError) as error:
            raise CommandError(str(error)) from error

    def _work(
        self,
        key: EventsKey,
        name: str | None,
        batch: int,
        claim_seconds: float,
        retries: int,
        once: bool,
    ) -> None:
        if batch < 1 or claim_seconds < 1 or retries < 0:
            raise CommandError("--batch and --claim-seconds must be at least 1, --retries at least 0")
        handlers.discover()
        if not handlers.any_registered():
            raise CommandError(
                f"there are no handlers: no installed app has a module {handlers.MODULE} that registers one, and the "
                "signals have no receivers. Nothing is read"
            )
        name = name or unique_name()
        worker = Worker(key, name=name, batch=batch, claim_seconds=claim_seconds, retries=retries, once=once)
        with _stopped_by_signals(worker):
            if not once:
                self.stdout.write(f"reading {key.kind}:{key.name} as {name}; stop with Ctrl-C")
                self.stdout.flush()
            worker.run()
        self.stdout.write(f"{worker.handled} events handled, {worker.parked} parked")

    def _list(self, key: EventsKey) -> None:
        count = 0
        for event in queues.failed_events(key):
            count += 1
            texts = f"{_printable(event.title)}  {_printable(event.error)}"
            self.stdout.write(f"{event.id}  {event.time:%Y-%m-%d %H:%M:%S}Z  {texts}")
        self.stdout.write(f"{count} parked events")

    def _requeue(self, key: EventsKey, ids: list[str]) -> None:
        found = [event for event in queues.failed_events(key) if not ids or event.id in ids]
        missing = sorted(set(ids) - {event.id for event in found})
        if missing:
            raise CommandError(f"there is no parked event {', '.join(missing)}; nothing was queued")
        self.stdout.write(f"{queues.requeue(key, found)} events queued again")


def _printable(text: str) -> str:
    """Escape what clients could send to the operator's terminal."""
    return "".join(
        letter if letter.isprintable() else letter.encode("unicode_escape").decode() for letter in text
    )


@contextmanager
def _stopped_by_signals(worker: Worker) -> Iterator[None]:
    if threading.current_thread() is not threading.main_thread():
        # Only the main thread may set signal handlers.
        yield
        return
    previous = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}

    def stop(number: int, frame: object) -> None:
        # A second signal ends a handler that hangs.
        signal.signal(number, signal.SIG_DFL)
        worker.stop()

    for number in previous:
        signal.signal(number, stop)
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
