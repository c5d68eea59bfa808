"""Handlers of events of a running gateway, in workers of a new project: the examples and promises of the document."""

import contextlib
import json
import sqlite3
import sys

import pytest
from documents import find, shows
from harness import Process, clean_environment, until

DJANGO = "docs/django.md"
EVENTS = find(DJANGO, "React to clients", 1).code
# Reports to the test's Redis. Each text fails once, and one worker is killed while it handles an event.
HANDLERS = """
import os, signal
import ws4redis
from ws4redis import connection

@ws4redis.on_message("chat-*")
def handle(event):
    store = connection.client()
    if event.data == "kill" and store.incr("kills") == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    if event.data.startswith("fail") and store.sadd("failed", event.data):
        raise ValueError("once")
    store.rpush("handled", f"{event.dialect} {event.user} {event.data}")
    store.sadd("workers", os.getpid())
"""


@pytest.fixture
def worker(project):
    """Returns a function that starts workers of the project."""
    project.settings(find(DJANGO, "A new site in five minutes", 2).code)
    project.settings('INSTALLED_APPS += ["mysite"]\n')
    started = []

    def start(*options):
        words = [sys.executable, project.home / "manage.py", "ws4redis_worker", *options]
        started.append(Process(words, env=clean_environment(**project.environment), cwd=project.home))
        started[-1].wait_until(lambda: "stop with Ctrl-C" in started[-1].output(), "worker")
        return started[-1]

    yield start
    for one in started:
        one.stop()


def settings_file(tmp_path, *parts):
    file = tmp_path / "settings.toml"
    file.write_text("\n".join(parts))
    return file


@pytest.mark.parametrize("kind", ["stream", "list"])
def test_each_message_of_both_protocols_is_handled_though_a_worker_is_killed_and_handlers_fail(
    kind, project, worker, gateway, store
):
    project.module("ws4redis_handlers", HANDLERS)
    project.settings(f'WS4REDIS_EVENTS = "{kind}:events"\n')
    here = gateway(events__to=f"{kind}:events")
    headers = {"Cookie": f"sessionid={project.session()}"}
    workers = [worker("--claim-seconds", "2", "--batch", "1") for _ in range(2)]
    texts = [*(f"text {number}" for number in range(30)), "fail 1", "kill", "fail 2"]
    with (
        here.connect("chat-5", "publish-broadcast", additional_headers=headers) as plain,
        here.connect("", "", subprotocols=["ws4redis.2"]) as live,
    ):
        live.send(json.dumps({"t": "sub", "f": "chat-6", "flags": ["publish-broadcast"]}))
        # Behind the greeting; until then the facility is unknown.
        assert [json.loads(live.receive())["t"] for _ in range(2)] == ["hello", "sub"]
        for text in texts:
            plain.send(text)
            live.send(json.dumps({"t": "pub", "f": "chat-6", "d": f"{text} too"}))
        wanted = {*(f"relay john {text}" for text in texts), *(f"live None {text} too" for text in texts)}
        # At least once: the event of the killed worker may come twice.
        until(lambda: {one.decode() for one in store.client.lrange("handled", 0, -1)}, wanted, "all messages")
    assert store.client.scard("workers") == 2
    assert store.client.scard("failed") == 4
    assert sorted(one.process.poll() for one in workers if one.process.poll() is not None) == [-9]
    assert store.client.xlen("events:failed") == 0


@shows(DJANGO, "Examples", 1, 2)
def test_positions_are_stored_once_and_only_valid_ones_of_users(
    blocks, project, worker, gateway, store, tmp_path
):
    models, handlers = blocks
    project.module("models", models.code)
    project.module("ws4redis_handlers", handlers.code)
    here = gateway(file=settings_file(tmp_path, EVENTS))
    headers = {"Cookie": f"sessionid={project.session()}"}
    running = worker()
    project.command("python manage.py makemigrations mysite && python manage.py migrate")
    with (
        here.connect("positions", "publish-user", additional_headers=headers) as john,
        here.connect("positions", "publish-broadcast") as anonymous,
    ):
        for text in ("52.5,13.4", "91,0", "nan,1", "1,2,3", "nowhere", b"\xff"):
            john.send(text)
        anonymous.send("1,1")
        messages = until(lambda: of_messages(store), lambda found: len(found) == 7, "all messages")
    # As after a crash of the worker between the database and Redis.
    repeated = next(one for one in messages if json.loads(one[b"data"])["data"] == "52.5,13.4")
    store.client.xadd("ws4redis:events", repeated)
    until(lambda: unhandled(store), 0, "no event left")
    assert running.stop() == 0
    joined = "mysite_position JOIN auth_user ON auth_user.id = user_id"
    assert read(project, f"SELECT username, latitude, longitude FROM {joined}") == [("john", 52.5, 13.4)]
    assert store.client.xlen("ws4redis:events:failed") == 0


def read(project, query):
    with contextlib.closing(sqlite3.connect(project.home / "db.sqlite3")) as database:
        return database.execute(query).fetchall()


def of_messages(store):
    events = [fields for _, fields in store.client.xrange("ws4redis:events")]
    return [one for one in events if json.loads(one[b"data"])["type"] == "message"]


def unhandled(store):
    (group,) = store.client.xinfo_groups("ws4redis:events")
    return group["pending"] + group["lag"]


@shows(DJANGO, "Examples", 1, 3)
def test_a_user_is_marked_online_and_offline_also_after_a_gateway_was_killed(
    blocks, project, worker, gateway, store, tmp_path
):
    models, handlers = blocks
    project.module("models", models.code)
    project.module("ws4redis_handlers", handlers.code)
    project.command("python manage.py makemigrations mysite && python manage.py migrate")
    # Entries of a killed gateway expire sooner than by default.
    file = settings_file(tmp_path, EVENTS, '[[presence]]\nfacility = ["*"]\nseconds = 3\n')
    first, second = gateway(file=file), gateway(file=file)
    headers = {"Cookie": f"sessionid={project.session()}"}
    for _ in range(2):
        worker()

    def online(wanted):
        until(lambda: read(project, "SELECT online FROM mysite_status"), [(wanted,)], f"online is {wanted}")

    with first.connect("x", additional_headers=headers), first.connect("y", additional_headers=headers):
        online(True)
        first.process.kill()
        online(False)
    with second.connect("x", additional_headers=headers):
        online(True)
    online(False)
