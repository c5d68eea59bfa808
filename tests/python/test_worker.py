"""`manage.py ws4redis_worker` with events in a stream and in a list.

Where processes end or run at the same time, they are those of a site in a directory; else the command runs in this
process, which starts faster.
"""

import json
import logging
import os
import signal
import subprocess
import sys
from contextlib import contextmanager
from io import StringIO
from pathlib import Path

import pytest
import redis
from conftest import SERVER
from django.core.management import CommandError, call_command
from django.test import override_settings
from stores import DEADLINE_SECONDS, ChannelRecorder, UnixRedisServer, wait_for

from ws4redis import handlers, signals
from ws4redis.queues import ListQueue
from ws4redis.testing import redis_for_tests

PACKAGE = Path(__file__).resolve().parents[2] / "python"
KEY = "ws4redis:events"
KINDS = ["stream", "list"]

SETTINGS = """
import json, os

SECRET_KEY = "for tests only"
INSTALLED_APPS = ["django.contrib.auth", "django.contrib.contenttypes", "ws4redis", "shop"]
DATABASES = {"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": os.path.join(os.path.dirname(__file__), "db")}}
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
WEBSOCKET_URL = "/ws/"
WS4REDIS_CONNECTION = {"url": os.environ["SITE_REDIS"], **json.loads(os.environ.get("SITE_REDIS_OPTIONS", "{}"))}
WS4REDIS_EVENTS = os.environ["SITE_EVENTS"]
SILENCED_SYSTEM_CHECKS = ["ws4redis.W006", "ws4redis.W008"]
LOGGING = {
    "version": 1,
    "disable_existing_loggers": False,
    "handlers": {"console": {"class": "logging.StreamHandler"}},
    "loggers": {"ws4redis": {"handlers": ["console"], "level": "INFO"}},
}
"""

HANDLERS = """
import os, signal, sys, redis
from django.db import connection
import ws4redis

store = redis.Redis.from_url(os.environ["SITE_STORE"])


@ws4redis.on_message("chat-*")
def handle(event):
    word = event.data.split()[0]
    if word == "wait":
        store.rpush("started", os.getpid())
        assert store.blpop("gate", timeout=30)
    elif word == "crash":
        store.rpush("crashed", os.getpid())
        os.kill(os.getpid(), signal.SIGKILL)
    elif word == "exit":
        sys.exit(5)
    elif word == "surrogate":
        raise ValueError("bad name \\ud800")
    elif word == "escape":
        raise ValueError("bad name \\x1b]0;title\\x07")
    elif word == "database":
        store.rpush("database", "closed" if connection.connection is None else "open")
        connection.ensure_connection()
    elif word == "fail" and not store.exists("repaired"):
        store.rpush("failed", event.data)
        raise ValueError(f"cannot handle {event.data}")
    store.rpush("handled", event.data)
    store.rpush("workers", os.getpid())


@ws4redis.on_message
def count(event):
    store.incr("count")
"""


class Site:
    """A site in a directory, whose handlers report to the test's Redis."""

    def __init__(self, directory, kind, store, monkeypatch):
        self.directory = directory
        self.monkeypatch = monkeypatch
        self.kind = kind
        self.key = KEY
        self.store = store
        self.environment = dict(
            os.environ,
            DJANGO_SETTINGS_MODULE="site_settings",
            PYTHONPATH=f"{directory}:{PACKAGE}",
            SITE_REDIS=SERVER.url,
            SITE_STORE=SERVER.url,
            SITE_EVENTS=f"{kind}:{KEY}",
        )
        self.processes = []
        (directory / "site_settings.py").write_text(SETTINGS)
        (directory / "shop").mkdir()
        (directory / "shop" / "__init__.py").touch()
        self.write_handlers(HANDLERS)

    def write_handlers(self, code):
        """Replaces the handlers, in this process as well."""
        (self.directory / "shop" / "ws4redis_handlers.py").write_text(code)
        self.monkeypatch.setattr(handlers, "_registrations", [])
        self.monkeypatch.setenv("SITE_STORE", SERVER.url)
        exec(code, {"__name__": "shop.ws4redis_handlers"})

    def command(self, *options):
        return [sys.executable, "-m", "django", "ws4redis_worker", *options]

    def start(self, *options):
        """Starts a worker, and waits until it reads."""
        process = subprocess.Popen(
            self.command(*options),
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self.processes.append(process)
        process.first_line = process.stdout.readline()
        assert "stop with Ctrl-C" in process.first_line, process.stderr.read()
        return process

    def run(self, *options, code=0):
        """Runs the command in this process; returns its output, or the text of its error."""
        output = StringIO()
        log = logging.StreamHandler(output)
        logging.getLogger("ws4redis").addHandler(log)
        address = {"url": self.environment["SITE_REDIS"]}
        try:
            with override_settings(WS4REDIS_EVENTS=f"{self.kind}:{KEY}", WS4REDIS_CONNECTION=address):
                if code:
                    with pytest.raises(CommandError) as caught:
                        call_command("ws4redis_worker", *options, stdout=output)
                    return str(caught.value)
                call_command("ws4redis_worker", *options, stdout=output)
        finally:
            logging.getLogger("ws4redis").removeHandler(log)
        return output.getvalue()

    def run_process(self, *options, code=0):
        """Runs a worker until it ends; returns its output."""
        done = subprocess.run(
            self.command(*options),
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=DEADLINE_SECONDS,
            check=False,
        )
        assert done.returncode == code, done.stdout + done.stderr
        return done.stdout + done.stderr

    def write(self, *texts, **fields):
        """Writes messages as the gateway does."""
        for text in texts:
            event = {"type": "message", "dialect": "relay", "facility": "chat-5", "data": text, **fields}
            self.write_raw(json.dumps(event))

    def write_raw(self, payload):
        if self.kind == "stream":
            self.store.execute_command("XADD", self.key, "MAXLEN", "~", 1000, "*", "data", payload)
        else:
            self.store.rpush(self.key, payload)

    def list(self, key):
        return [item.decode() for item in self.store.lrange(key, 0, -1)]

    def wait_for(self, key, count):
        wait_for(lambda: self.store.llen(key) >= count, f"{count} in {key}")
        return self.list(key)

    def unhandled(self):
        """The number of events that wait or are in progress."""
        if self.kind == "list":
            return self.store.llen(KEY) + sum(map(self.store.llen, self.store.keys(f"{KEY}:processing:*")))
        groups = self.store.xinfo_groups(KEY)
        return groups[0]["pending"] + groups[0]["lag"] if groups else self.store.xlen(KEY)

    def failed(self):
        return [fields for _, fields in self.store.xrange(f"{KEY}:failed")]

    def kill(self, process):
        """Kills a worker that waits at the gate."""
        process.kill()
        process.wait(DEADLINE_SECONDS)
        # Redis may notice it after the next push, and give the dead process its element.
        wait_for(
            lambda: not any(one["cmd"] == "blpop" for one in self.store.client_list()), "the end of BLPOP"
        )

    def close(self):
        for process in self.processes:
            if process.poll() is None:
                process.kill()
            process.communicate()


@pytest.fixture
def new_site(tmp_path, store, monkeypatch):
    sites = []

    def new_site(kind="stream"):
        sites.append(Site(tmp_path, kind, store, monkeypatch))
        return sites[-1]

    yield new_site
    for site in sites:
        site.close()


@pytest.fixture(params=KINDS)
def site(request, new_site):
    return new_site(request.param)


@contextmanager
def other_redis(site):
    """A Redis for the events alone, at a port; yields a function that starts it anew, without its data."""
    servers = [UnixRedisServer(unused_port())]
    port = servers[0].port
    site.environment["SITE_REDIS"] = f"redis://127.0.0.1:{port}/0"

    def start_anew():
        servers.append(UnixRedisServer(port))
        return servers[-1]

    try:
        yield servers[0], start_anew
    finally:
        servers[-1].stop()


def stop(process, number=signal.SIGTERM):
    process.send_signal(number)
    output, errors = process.communicate(timeout=DEADLINE_SECONDS)
    assert process.returncode == 0, errors
    return output + errors


# ---- Several workers, crashes and ends -------------------------------------------------------------------------------


def test_two_workers_share_the_events(site):
    workers = [site.start("--batch", "1") for _ in range(2)]
    # Both are occupied at the same time.
    site.write("wait", "wait")
    assert set(site.wait_for("started", 2)) == {str(worker.pid) for worker in workers}
    texts = [f"text {number}" for number in range(200)]
    site.write(*texts)
    site.store.rpush("gate", 1, 2)
    assert sorted(site.wait_for("handled", 202)) == sorted([*texts, "wait", "wait"])
    outputs = [stop(worker) for worker in workers]
    assert sum(int(output.split(" events handled")[0]) for output in outputs) == 202
    assert site.unhandled() == 0


def test_events_from_before_the_first_worker_are_handled_in_order(site):
    texts = [f"text {number}" for number in range(30)]
    site.write(*texts)
    assert "30 events handled, 0 parked" in site.run("--once", "--batch", "7")
    assert site.list("handled") == texts
    assert "0 events handled" in site.run("--once")
    assert site.store.get("count") == b"30"


def test_the_events_of_a_killed_worker_are_claimed(site):
    site.write("wait", "b", "c")
    killed = site.start("--claim-seconds", "1")
    site.wait_for("started", 1)
    site.kill(killed)
    site.store.rpush("gate", 1)
    other = site.start("--claim-seconds", "1")
    assert sorted(site.wait_for("handled", 3)) == ["b", "c", "wait"]
    stop(other)
    assert site.unhandled() == 0
    assert site.store.get("count") == b"3"


def test_a_restarted_worker_with_the_same_name_continues_at_once(site):
    site.write("wait", "b")
    killed = site.start("--name", "one")
    site.wait_for("started", 1)
    site.kill(killed)
    site.store.rpush("gate", 1)
    assert "2 events handled" in site.run("--name", "one", "--once")
    assert site.list("handled") == ["wait", "b"]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_lets_the_current_event_end_and_others_continue_at_once(site, number):
    site.write("wait", "b", "c")
    worker = site.start()
    site.wait_for("started", 1)
    worker.send_signal(number)
    site.store.rpush("gate", 1)
    output, errors = worker.communicate(timeout=DEADLINE_SECONDS)
    assert worker.returncode == 0, errors
    assert "1 events handled" in output
    assert site.list("handled") == ["wait"]
    # Without --claim-seconds it would take a minute.
    assert "2 events handled" in site.run("--once")
    assert site.list("handled") == ["wait", "b", "c"]


def test_an_idle_worker_ends_and_leaves_nothing(site):
    output = stop(site.start())
    assert "0 events handled, 0 parked" in output
    keys = {key.decode() for key in site.store.keys("*")}
    assert keys == ({KEY} if site.kind == "stream" else set())
    if site.kind == "stream":
        assert site.store.xinfo_consumers(KEY, "ws4redis") == []


def test_an_event_that_crashes_its_worker_is_parked_and_affects_no_other(site):
    site.write("crash", "b", "c")
    for _ in range(3):
        site.run_process("--once", "--name", "one", "--claim-seconds", "1", code=-signal.SIGKILL)
    output = site.run("--once", "--name", "one", "--claim-seconds", "1")
    assert "2 events handled, 1 parked" in output
    assert site.store.llen("crashed") == 3
    assert site.list("handled") == ["b", "c"]
    (failed,) = site.failed()
    assert failed[b"error"] == b"its worker ended 3 times without handling it"
    assert site.unhandled() == 0


def test_a_handler_may_take_longer_than_the_claim_time(site):
    slow, other = (site.start("--claim-seconds", "2", "--batch", "1") for _ in range(2))
    site.write("wait")
    site.wait_for("started", 1)
    last, renewals = None, 0

    def renewed():
        nonlocal last, renewals
        if site.kind == "stream":
            (entry,) = site.store.xpending_range(KEY, "ws4redis", "-", "+", 2)
            assert entry["times_delivered"] == 1
            sign = -entry["time_since_delivered"]
        else:
            scores = site.store.zrange(f"{KEY}:workers", 0, -1, withscores=True)
            sign = min(score for _, score in scores)
        renewals += last is not None and sign > last
        last = sign
        return renewals >= 4

    # Two thirds of a second each.
    wait_for(renewed, "four renewals")
    site.store.rpush("gate", 1)
    site.wait_for("handled", 1)
    for worker in (slow, other):
        stop(worker)
    assert site.list("started") == site.list("workers")


def test_an_exit_in_a_handler_counts_as_a_crash(site):
    site.write("exit", "b")
    for _ in range(3):
        site.run_process("--once", "--name", "one", code=5)
    assert "1 events handled, 1 parked" in site.run("--once", "--name", "one")
    assert site.list("handled") == ["b"]


def test_a_handed_back_event_is_not_counted_as_a_crash(site):
    site.write("fail")
    for _ in range(4):
        worker = site.start("--retries", "100")
        count = site.store.llen("failed")
        site.wait_for("failed", count + 1)
        stop(worker)
    assert site.failed() == []
    site.store.set("repaired", 1)
    assert "1 events handled, 0 parked" in site.run("--once")


# ---- Handlers that fail ----------------------------------------------------------------------------------------------


def test_a_failing_handler_is_retried_and_then_the_event_is_parked(site):
    site.write("fail here", "b")
    output = site.run("--once")
    assert "1 events handled, 1 parked" in output
    assert output.count("next try in") == 2
    assert "shop.ws4redis_handlers.handle: ValueError: cannot handle fail here" in output
    assert site.store.llen("failed") == 3
    # The other handler has not failed, and was called once per event.
    assert site.store.get("count") == b"2"
    (failed,) = site.failed()
    assert failed[b"error"] == b"shop.ws4redis_handlers.handle: ValueError: cannot handle fail here"
    assert failed[b"tries"] == b"3"
    assert json.loads(failed[b"data"])["data"] == "fail here"
    assert site.unhandled() == 0


def test_an_error_with_a_lone_surrogate_is_parked_as_any_other(site):
    # JSON of clients may have lone surrogates, and handlers may quote it.
    site.write("surrogate", "b")
    # In a process of its own, since pytest-xdist cannot pass on a log with surrogates.
    worker = site.start("--retries", "0")
    assert site.wait_for("handled", 1) == ["b"]
    assert "1 events handled, 1 parked" in stop(worker)
    (failed,) = site.failed()
    assert failed[b"error"].endswith(rb"ValueError: bad name \ud800")
    assert "1 parked events" in site.run("--failed")


def test_parked_events_are_listed_without_control_characters(site):
    site.write("escape", facility="chat-\x1b[2J")
    assert "0 events handled, 1 parked" in site.run("--once", "--retries", "0")
    listed = site.run("--failed")
    assert r"chat-\x1b[2J" in listed
    assert r"bad name \x1b]0;title\x07" in listed
    assert listed.replace("\n", "").isprintable()


def test_a_worker_of_a_list_that_comes_back_keeps_its_events(site):
    def queue(name):
        return ListQueue(site.store, KEY, name, claim_seconds=0.1)

    one, two = queue("one"), queue("two")
    site.store.rpush(KEY, "first", "second", "third")
    one.open()
    assert [delivery.payload for delivery in one.read(1, 0)] == [b"first"]
    two.open()
    wait_for(lambda: not one.is_lease_valid, "the end of the lease")
    claimed = two.claim()
    assert next(claimed).payload == b"first"
    one.forget()
    one.renew()
    assert [delivery.payload for delivery in one.read(1, 0)] == [b"second"]
    assert not list(claimed)
    assert site.store.zscore(f"{KEY}:workers", "one") is not None
    assert site.store.lrange(f"{KEY}:processing:one", 0, -1) == [b"second"]


def test_a_handler_that_recovers_is_called_until_it_succeeds(site):
    site.write("fail")
    worker = site.start("--retries", "50")
    site.wait_for("failed", 1)
    site.store.set("repaired", 1)
    assert site.wait_for("handled", 1) == ["fail"]
    wait_for(lambda: site.unhandled() == 0, "the end of the event")
    assert "1 events handled, 0 parked" in stop(worker)
    assert site.store.get("count") == b"1"


def test_parked_events_are_listed_and_queued_again(site):
    site.write("fail 1", "fail 2", facility="chat-7")
    site.write_raw("no JSON")
    assert "0 events handled, 3 parked" in site.run("--once", "--retries", "0")
    lines = site.run("--failed").splitlines()
    assert [line.split("  ")[2] for line in lines[:-1]] == ["message chat-7", "message chat-7", "malformed"]
    assert "cannot handle fail 1" in lines[0]
    assert "MalformedEvent: not JSON" in lines[2]
    assert lines[-1] == "3 parked events"
    ids = [line.split("  ")[0] for line in lines[:-1]]
    assert "there is no parked event 1-1" in site.run("--retry-failed", ids[0], "1-1", code=1)
    site.store.set("repaired", 1)
    assert "1 events queued again" in site.run("--retry-failed", ids[1])
    assert "1 events handled, 0 parked" in site.run("--once")
    assert site.list("handled") == ["fail 2"]
    assert "2 events queued again" in site.run("--retry-failed")
    assert "1 events handled, 1 parked" in site.run("--once")
    assert site.list("handled") == ["fail 2", "fail 1"]
    assert "1 parked events" in site.run("--failed")


@pytest.mark.parametrize(
    "payload", ["", "[]", "{}", '{"type":"message","data":"!","binary":true}', b"\xff"], ids=repr
)
def test_malformed_events_are_parked_at_once(site, payload):
    site.write_raw(payload)
    assert "0 events handled, 1 parked" in site.run("--once")
    (failed,) = site.failed()
    assert failed[b"error"].startswith(b"MalformedEvent: ")
    assert failed[b"data"] == (payload if isinstance(payload, bytes) else payload.encode())


def test_entries_without_data_are_parked(new_site):
    site = new_site()
    site.store.xadd(KEY, {"other": "x"})
    assert "1 parked" in site.run("--once")


def test_unknown_types_and_events_without_a_handler_are_removed(site):
    site.write("x", type="of a newer gateway")
    site.write("x", facility="other")
    assert "2 events handled, 0 parked" in site.run("--once")
    assert site.unhandled() == 0
    assert site.store.get("count") == b"1"


def test_database_connections_are_closed_between_events(new_site):
    site = new_site()
    site.write("database 1", "database 2")
    site.run("--once")
    assert site.list("database") == ["closed", "closed"]


# ---- Acknowledgements ------------------------------------------------------------------------------------------------


@pytest.fixture
def answers(store):
    """A function that returns the acknowledgements."""
    recorder = ChannelRecorder(store, "socketio")
    yield lambda count=None: [json.loads(message) for message in recorder.received(count)]
    recorder.close()


def ask(site, event, id=7, **fields):
    """Writes an event of a Socket.IO client."""
    sent = {"type": "event", "dialect": "socket_io", "node": "0" * 32, "namespace": "/", "sid": "abc"}
    site.write_raw(json.dumps({**sent, "event": event, "args": ["x"], "binary": False, "id": id, **fields}))


ANSWERS = """
import ws4redis

@ws4redis.on_event("ask")
def ask(event):
    return "got", *event.args

@ws4redis.on_event("binary")
def binary(event):
    return event.args[0]

@ws4redis.on_event("nothing", "fail")
def nothing(event):
    if event.event == "fail":
        raise ValueError("x")

@ws4redis.on_event("object")
def object(event):
    return print
"""


def test_the_result_of_a_handler_is_the_acknowledgement(site, answers):
    site.write_handlers(ANSWERS)
    ask(site, "ask")
    ask(site, "nothing")
    ask(site, "binary", binary=True, args=[[{"_placeholder": True, "num": 0}], "AP8="], id=0)
    assert "3 events handled" in site.run("--once")
    expected = {"method": "callback", "host_id": "0" * 32, "sid": "abc", "namespace": "/"}
    assert answers(3) == [
        {**expected, "id": 7, "args": ["got", "x"]},
        {**expected, "id": 7, "args": []},
        {**expected, "id": 0, "args": [[{"_placeholder": True, "num": 0}], "AP8="], "binary": True},
    ]


def test_what_nobody_answers_is_not_acknowledged(site, answers):
    site.write_handlers(ANSWERS)
    ask(site, "ask", id=None)
    ask(site, "unknown")
    ask(site, "ask", namespace="/chat")
    ask(site, "fail")
    ask(site, "object")
    output = site.run("--once", "--retries", "0")
    assert "4 events handled, 1 parked" in output
    assert "event 'object' is not acknowledged: the handler's result is unusable" in output
    assert answers() == []


# ---- Redis -----------------------------------------------------------------------------------------------------------


def documented_user(kind):
    """The ACL line of a worker in docs/security.md, without the command."""
    lines = (PACKAGE.parent / "docs" / "security.md").read_text().splitlines()
    line = next(line for line in lines if line.startswith("ACL SETUSER ws4redis-worker reset "))
    words = line.replace(">PASSWORD", ">secret").split()[2:]
    if kind == "list":
        words += next(line for line in lines if line.startswith("+lmove +blmove +lrange +llen ")).split()
    return words


def test_the_documented_redis_user_has_enough_rights(site, store, answers):
    store.execute_command("ACL", "SETUSER", *documented_user(site.kind))
    store.execute_command("ACL", "LOG", "RESET")
    try:
        site.write_handlers(HANDLERS + ANSWERS)
        site.environment["SITE_REDIS"] = SERVER.url.replace("://", "://ws4redis-worker:secret@")
        site.write("wait", "fail")
        killed = site.start("--claim-seconds", "1")
        site.wait_for("started", 1)
        site.kill(killed)
        store.rpush("gate", 1)
        worker = site.start("--claim-seconds", "1", "--retries", "0")
        assert site.wait_for("handled", 1) == ["wait"]
        wait_for(site.failed, "the parked event")
        ask(site, "ask")
        assert len(answers(1)) == 1
        # Handed back to the next one.
        site.write("wait", "b")
        site.wait_for("started", 3)
        worker.send_signal(signal.SIGTERM)
        store.rpush("gate", 1)
        _, errors = worker.communicate(timeout=DEADLINE_SECONDS)
        assert worker.returncode == 0, errors
        store.set("repaired", 1)
        assert "fail" in site.run("--failed")
        site.run("--retry-failed")
        assert "handled" in site.run("--once", "--claim-seconds", "1")
        assert sorted(site.list("handled")) == ["b", "fail", "wait", "wait"]
        assert site.unhandled() == 0
        refused = {entry[b"object"] for entry in store.execute_command("ACL", "LOG")}
        # redis-py tells its version, and does not mind the refusal.
        assert refused <= {b"client|setinfo", b"client"}
    finally:
        store.execute_command("ACL", "DELUSER", "ws4redis-worker")


def unused_port():
    import socket

    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def test_a_lost_redis_is_logged_once_and_awaited(site):
    with other_redis(site) as (first, start_anew):
        worker = site.start()
        site.store = first.client
        site.write("before")
        handled = redis.Redis.from_url(SERVER.url)
        wait_for(lambda: handled.llen("handled") == 1, "the first event")
        first.stop()
        # Its line is written before the first wait.
        assert "no events are handled" in worker.stderr.readline()
        second = start_anew()
        site.store = second.client
        site.write("after")
        wait_for(lambda: handled.llen("handled") == 2, "the second event")
        output = stop(worker)
        handled.close()
    assert "Redis is back" in output
    assert "no events are handled" not in output, "logged once"


def test_a_worker_starts_before_redis(site):
    with other_redis(site) as (first, start_anew):
        first.stop()
        worker = site.start()
        assert "no events are handled" in worker.stderr.readline()
        second = start_anew()
        site.store = second.client
        site.write("text")
        handled = redis.Redis.from_url(SERVER.url)
        wait_for(lambda: handled.llen("handled") == 1, "the event")
        handled.close()
        stop(worker)


def test_a_worker_that_waits_for_redis_ends_with_a_signal(site):
    with other_redis(site) as (first, start_anew):
        first.stop()
        worker = site.start()
        assert "no events are handled" in worker.stderr.readline()
        stop(worker)
        assert "Redis failed" in site.run("--once", code=1)
        start_anew()


@pytest.mark.parametrize(
    "options", [{"decode_responses": True}, {"protocol": 3}, {"socket_timeout": 0.4}], ids=str
)
def test_the_options_of_the_connection_do_not_matter(site, options):
    if "protocol" in options and int(redis.__version__.split(".")[0]) < 5:
        pytest.skip("this redis-py has no protocol 3")
    site.environment["SITE_REDIS_OPTIONS"] = json.dumps(options)
    site.write("wait", "fail")
    killed = site.start("--claim-seconds", "1", "--retries", "0")
    site.wait_for("started", 1)
    site.kill(killed)
    site.store.rpush("gate", 1)
    worker = site.start("--claim-seconds", "1", "--retries", "0")
    assert site.wait_for("handled", 1) == ["wait"]
    wait_for(site.failed, "the parked event")
    site.write("b")
    site.wait_for("handled", 2)
    stop(worker)
    assert "message chat-5" in site.run("--failed")
    assert site.unhandled() == 0


def test_an_event_that_was_trimmed_while_it_was_pending_is_reported(new_site):
    site = new_site()
    site.write("wait")
    killed = site.start("--claim-seconds", "1")
    site.wait_for("started", 1)
    site.kill(killed)
    site.store.xtrim(KEY, maxlen=0, approximate=False)
    worker = site.start("--claim-seconds", "1")
    assert "was trimmed from the stream before it was handled" in worker.stderr.readline()
    assert site.store.xpending(KEY, "ws4redis")["pending"] == 0
    stop(worker)


def test_consumers_of_workers_that_ended_are_removed_unless_they_have_events(new_site, monkeypatch):
    site = new_site()
    site.write("x")
    site.store.xgroup_create(KEY, "ws4redis", id="0")
    site.store.xreadgroup("ws4redis", "with an event", {KEY: ">"})
    site.store.xgroup_createconsumer(KEY, "ws4redis", "without")
    monkeypatch.setattr("ws4redis.queues.STALE_CONSUMER_SECONDS", 0)
    from ws4redis.queues import StreamQueue, client

    wait_for(lambda: site.store.xinfo_consumers(KEY, "ws4redis")[1]["idle"] > 0, "time")
    StreamQueue(client(KEY), KEY, "new", 60).open()
    assert [consumer["name"] for consumer in site.store.xinfo_consumers(KEY, "ws4redis")] == [
        b"with an event"
    ]


# ---- What the command refuses ----------------------------------------------------------------------------------------


def test_a_channel_is_refused_with_the_reason(new_site):
    site = new_site("channel")
    assert "two workers would handle each event twice" in site.run_process(code=1)


@override_settings(WS4REDIS_EVENTS="channel:x")
def test_the_command_itself_refuses_a_channel(store):
    with pytest.raises(CommandError, match="a worker cannot read a channel"):
        call_command("ws4redis_worker", once=True)


def test_a_key_of_another_type_is_refused(site):
    site.store.set(KEY, "x")
    assert "correct WS4REDIS_EVENTS" in site.run(code=1)


def test_a_site_without_handlers_loses_no_events(site):
    site.write_handlers("")
    site.write("x")
    assert "there are no handlers" in site.run("--once", code=1)
    site.write_handlers(HANDLERS)
    assert "1 events handled" in site.run("--once")


def test_an_error_in_a_module_of_handlers_is_not_hidden(new_site):
    site = new_site()
    (site.directory / "shop" / "ws4redis_handlers.py").write_text("import no_such_module")
    assert "no_such_module" in site.run_process("--once", code=1)


def test_receivers_of_signals_are_enough(new_site):
    site = new_site()
    site.write_handlers("")
    seen = []

    def receive(event, **_):
        seen.append(event.data)

    signals.message_received.connect(receive)
    try:
        site.write("x")
        assert "1 events handled" in site.run("--once")
    finally:
        signals.message_received.disconnect(receive)
    assert seen == ["x"]


@pytest.mark.parametrize("options", [{"batch": 0}, {"claim_seconds": 0}, {"retries": -1}])
def test_wrong_numbers_are_refused(store, options):
    with pytest.raises(CommandError, match="at least"):
        call_command("ws4redis_worker", once=True, **options)


def test_a_test_run_does_not_read_the_sites_events(site, monkeypatch):
    monkeypatch.setattr("ws4redis.testing._live", 0)
    site.write("of the site")
    assert "dispatch_event" in site.run("--once", code=1)
    with redis_for_tests("test-run"):
        assert "0 events handled" in site.run("--once")
        site.key = f"test-run:{KEY}"
        site.write("of the test")
        assert "1 events handled" in site.run("--once")
    assert site.list("handled") == ["of the test"]
    assert site.store.keys("test-run:*") == []
    site.key = KEY
    assert site.unhandled() == 1
