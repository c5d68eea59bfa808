"""What Emitter publishes, and what python-socketio's servers and clients make of it."""

import datetime
import decimal
import json
import os
import subprocess
import sys
import threading
import uuid
from pathlib import Path

import pytest
import redis
from conftest import SERVER
from django.test import override_settings
from django.utils.functional import lazystr
from emissions import CALLBACK_ID, CALLBACKS, CALLS, HOST, SID
from stores import ChannelRecorder, commands, wait_for

from ws4redis import connection, socketio
from ws4redis.events import Event
from ws4redis.socketio import Emitter, acknowledge
from ws4redis.testing import Publication, capture_publications, redis_for_tests

HERE = Path(__file__).resolve().parent
PYTHON = os.environ.get("WS4REDIS_SOCKETIO_PYTHON")

needs_socketio = pytest.mark.skipif(
    PYTHON is None, reason="WS4REDIS_SOCKETIO_PYTHON is not set; see tests/run-python"
)


@pytest.fixture
def heard(store):
    """A function that returns the messages of the channel as text."""
    recorder = ChannelRecorder(store, "socketio")
    yield recorder.received
    recorder.close()


def published(heard, *arguments, **options):
    """The message of an emit as an object."""
    assert Emitter().emit(*arguments, **options) == 1
    return json.loads(heard(1)[0])


# ---- Against the library ---------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def theirs():
    """The payloads of python-socketio's manager by call."""
    done = subprocess.run(
        [PYTHON, HERE / "emissions.py", SERVER.path], capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@needs_socketio
@pytest.mark.parametrize("name", CALLS)
def test_the_bytes_are_those_of_python_socketio(theirs, heard, name):
    method, arguments, options = CALLS[name]
    assert getattr(Emitter(), method)(*arguments, **options) == 1
    assert heard(1)[0].replace(socketio.HOST_ID, HOST) == theirs[name]


@needs_socketio
@pytest.mark.parametrize("name", CALLBACKS)
def test_the_bytes_of_an_acknowledgement_are_those_of_python_socketio(theirs, heard, name):
    event = Event("event", "socket_io", node=HOST, sid=SID, namespace="/chat", id=CALLBACK_ID)
    assert acknowledge(event, *CALLBACKS[name]) == 1
    assert heard(1) == [theirs[name]]


@needs_socketio
def test_a_python_socketio_server_reads_an_acknowledgement(store):
    with subprocess.Popen(
        [PYTHON, HERE / "socketio_callbacks.py", SERVER.url], stdout=subprocess.PIPE, text=True
    ) as server:
        event = Event("event", "socket_io", **json.loads(server.stdout.readline()))
        wait_for(lambda: dict(store.pubsub_numsub("socketio"))[b"socketio"], "the server's subscription")
        acknowledge(event, "ż", {"a": [1]})
        assert json.loads(server.stdout.readline()) == ["ż", {"a": [1]}]
    assert server.returncode == 0


def test_binary_arguments_of_an_acknowledgement_are_attachments(heard):
    event = Event("event", "socket_io", node=HOST, sid=SID, namespace=None, id=0)
    acknowledge(event, b"x", {"a": b""})
    first, second = ({"_placeholder": True, "num": number} for number in (0, 1))
    assert json.loads(heard(1)[0]) == {
        "method": "callback",
        "host_id": HOST,
        "sid": SID,
        "namespace": "/",
        "id": 0,
        "args": [[first, {"a": second}], "eA==", ""],
        "binary": True,
    }


@pytest.mark.parametrize("field", ["id", "node", "sid"])
def test_an_event_that_requests_no_acknowledgement_is_refused(heard, field):
    fields = {"id": 1, "node": HOST, "sid": SID, field: None}
    with pytest.raises(TypeError, match="requests no acknowledgement"):
        acknowledge(Event("event", "socket_io", **fields))
    with pytest.raises(TypeError, match="JSON"):
        acknowledge(Event("event", "socket_io", id=1, node=HOST, sid=SID), object())
    assert heard() == []


class Site:
    """A python-socketio server with its clients."""

    def __init__(self, store):
        self.process = subprocess.Popen(
            [PYTHON, HERE / "socketio_site.py", SERVER.url],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        # A site that hangs ends, and with it the wait for its next line.
        self.deadline = threading.Timer(60, self.process.kill)
        self.deadline.start()
        self.sids = self.line()["sids"]
        wait_for(lambda: dict(store.pubsub_numsub("socketio"))[b"socketio"], "the server's subscription")

    def line(self):
        line = self.process.stdout.readline()
        assert line, "the server has ended"
        return json.loads(line)

    def heard(self, *clients, namespace="/"):
        """What the clients have heard, up to an event that is sent now, or until they are disconnected."""
        Emitter().emit("end", namespace=namespace)
        waiting, events = set(clients), []
        while waiting:
            line = self.line()
            if line["event"] == "end":
                waiting.remove(line["client"])
            else:
                assert line["namespace"] == namespace
                events.append((line["client"], line["event"], *line["args"]))
                if line["event"] == "disconnect":
                    waiting.remove(line["client"])
        return sorted(events, key=lambda event: event[0])

    def close(self):
        self.process.communicate(timeout=30)
        self.deadline.cancel()


@pytest.fixture
def site(store):
    if PYTHON is None:
        pytest.skip("WS4REDIS_SOCKETIO_PYTHON is not set; see tests/run-python")
    site = Site(store)
    yield site
    site.close()


def test_clients_get_events_with_their_arguments(site):
    emitter = Emitter()
    emitter.emit("none")
    emitter.emit("dict", {"a": [1, None, "ż€🎉"]})
    emitter.emit("tuple", ("a", ["b"]))
    emitter.emit("list", ["a", 1])
    emitter.emit("numbers", [float("nan"), {"x": float("-inf")}, 1.5])
    emitter.send("text")
    emitter.emit("bytes", ({"body": b"\x00\xff", "list": [bytearray(b"a"), (memoryview(b"b"), 1)]}, b""))
    binary = (
        {"body": {"$bytes": "AP8="}, "list": [{"$bytes": "YQ=="}, [{"$bytes": "Yg=="}, 1]]},
        {"$bytes": ""},
    )
    assert site.heard("a", "b") == [
        (client, *event)
        for client in ("a", "b")
        for event in (
            ("none",),
            ("dict", {"a": [1, None, "ż€🎉"]}),
            ("tuple", "a", ["b"]),
            ("list", ["a", 1]),
            ("numbers", [None, {"x": None}, 1.5]),
            ("message", "text"),
            ("bytes", *binary),
        )
    ]


def test_events_reach_the_clients_that_they_are_for(site):
    a, b = site.sids["a"]["/"], site.sids["b"]["/"]
    emitter = Emitter()
    emitter.emit("one", room=a)
    emitter.emit("other", to=[b])
    emitter.emit("both", to={a, b})
    emitter.emit("nobody", to=[])
    emitter.emit("nowhere", to="no such room")
    emitter.emit("not a", skip_sid=a)
    emitter.emit("neither", skip_sid=(a, b))
    assert site.heard("a", "b") == [
        ("a", "one"),
        ("a", "both"),
        ("b", "other"),
        ("b", "both"),
        ("b", "not a"),
    ]
    emitter.emit("chat", "hello", namespace="/chat", skip_sid=site.sids["b"]["/chat"])
    assert site.heard("a", "b", namespace="/chat") == [("a", "chat", "hello")]


def test_clients_enter_and_leave_rooms(site):
    a, b = site.sids["a"]["/"], site.sids["b"]["/"]
    emitter = Emitter()
    emitter.enter_room(a, "/", "red")
    emitter.enter_room(b, None, "red")
    emitter.emit("entered", room="red")
    emitter.leave_room(a, "/", "red")
    emitter.emit("left", room="red")
    emitter.close_room("red")
    emitter.emit("closed", room="red")
    assert site.heard("a", "b") == [("a", "entered"), ("b", "entered"), ("b", "left")]


def test_a_client_is_disconnected(site):
    emitter = Emitter()
    emitter.disconnect(site.sids["a"]["/chat"], "/chat")
    assert site.heard("a", "b", namespace="/chat") == [("a", "disconnect", "server disconnect")]
    emitter.disconnect("no such sid")
    assert site.heard("a", "b") == []
    emitter.disconnect(site.sids["a"]["/"])
    assert site.heard("a", "b") == [("a", "disconnect", "server disconnect")]


def test_the_documented_calls_reach_the_clients(site):
    language = "python"
    text = (HERE.parents[1] / "docs/socketio.md").read_text()
    code = text.split(f"```{language}\n")[1].split("```")[0]
    a, b = (site.sids[name]["/"] for name in ("a", "b"))
    emitter = Emitter()
    for room in ("import:42", "editors"):
        emitter.enter_room(b, "/", room)
    exec(code, {"sid": a})
    seen = []
    while len(seen) < 8:
        line = site.line()
        seen.append((line["client"], line["namespace"], line["event"], *line["args"]))
    news = {"id": 7, "title": "Hello"}
    assert [event for event in seen if event[0] == "a"] == [
        ("a", "/", "news", news),
        ("a", "/", "preview", {"type": "image/png", "body": {"$bytes": "iVBORw=="}}),
        ("a", "/chat", "message", "Hello"),
        ("a", "/", "disconnect", "server disconnect"),
    ]
    assert [event for event in seen if event[0] == "b"] == [
        ("b", "/", "news", news),
        ("b", "/", "progress", 3, 10),
        ("b", "/", "edited", 7),
        ("b", "/chat", "message", "Hello"),
    ]


# ---- Where the library sends nothing, or something else ---------------------------------------------------------------


def test_values_that_json_lacks(heard):
    key = uuid.UUID(int=7)
    message = published(
        heard,
        "e",
        {
            "numbers": [float("nan"), float("inf"), -float("inf"), (float("nan"),)],
            "date": datetime.datetime(2024, 1, 2, 3, 4, 5),
            "decimal": decimal.Decimal("1.50"),
            "uuid": key,
            "lazy": lazystr("text"),
            float("nan"): 1,
        },
    )
    assert message["data"] == [
        {
            "numbers": [None, None, None, [None]],
            "date": "2024-01-02T03:04:05",
            "decimal": "1.50",
            "uuid": str(key),
            "lazy": "text",
            "NaN": 1,
        }
    ]


def test_bytes_in_tuples_and_views_of_bytes_are_attachments(heard):
    message = published(heard, "e", {"a": (b"x", 1), "b": memoryview(b"abcd")[::2]})
    first, second = ({"_placeholder": True, "num": number} for number in (0, 1))
    assert message["data"] == [[{"a": [first, 1], "b": second}], "eA==", "YWM="]
    assert message["binary"] is True


def test_the_data_is_not_changed(heard):
    data = {"a": [b"x", float("inf"), {"b": (1,)}]}
    published(heard, "e", data)
    assert data == {"a": [b"x", float("inf"), {"b": (1,)}]}


def test_rooms_may_be_any_iterable(heard):
    assert published(heard, "e", room=(f"user:{pk}" for pk in (1, 2)))["room"] == ["user:1", "user:2"]
    assert published(heard, "e", to={7})["room"] == [7]
    assert published(heard, "e", skip_sid=iter("ab"))["skip_sid"] == ["a", "b"]


@pytest.mark.parametrize("options", [{"to": []}, {"room": ()}, {"to": [], "room": "a"}], ids=str)
def test_an_empty_list_of_rooms_publishes_nothing(heard, options):
    assert Emitter().emit("e", **options) == 0
    with pytest.raises(TypeError):
        Emitter().emit("e", object(), **options)
    assert heard() == []


RECURSIVE = []
RECURSIVE.append(RECURSIVE)
DEEP = []
for _ in range(100_000):
    DEEP = [DEEP]


@pytest.mark.parametrize(
    ("call", "part"),
    [
        (lambda one: one.emit(b"e"), "event must be a str, not bytes"),
        (lambda one: one.emit(None), "event"),
        (lambda one: one.emit("e", object()), "Object of type object is not JSON serializable"),
        (lambda one: one.emit("e", [{"a": {1, 2}}]), "set"),
        (lambda one: one.emit("e", (b"x", object())), "object"),
        (lambda one: one.emit("e", {(1, 2): 3}), "keys"),
        (lambda one: one.emit("e", {b"x": 3}), "keys"),
        (lambda one: one.emit("e", RECURSIVE), "contains itself"),
        (lambda one: one.emit("e", DEEP), "too deeply"),
        (lambda one: one.emit("e", [b"x", {"_placeholder": True, "num": 5}]), "_placeholder"),
        (lambda one: one.emit("e", callback=print), "callback is not supported"),
        (lambda one: one.emit("e", to=""), "to must not contain empty names"),
        (lambda one: one.emit("e", room=["a", ""]), "room must not contain empty names"),
        (lambda one: one.emit("e", room=b"a"), "not bytes"),
        (lambda one: one.emit("e", room=True), "not bool"),
        (lambda one: one.emit("e", room=[None]), "not NoneType"),
        (lambda one: one.emit("e", room={"a": 1}), "not dict"),
        (lambda one: one.emit("e", room=1.5), "not float"),
        (lambda one: one.emit("e", skip_sid=5), "skip_sid must be a sid (str) or a list of sids, not int"),
        (lambda one: one.emit("e", skip_sid=["a", None]), "skip_sid"),
        (lambda one: one.emit("e", namespace="chat"), "namespace must begin with a slash"),
        (lambda one: one.emit("e", namespace=""), "namespace"),
        (lambda one: one.emit("e", namespace=5), "namespace"),
        (lambda one: one.send("x", callback=print), "callback"),
        (lambda one: one.disconnect(""), "sid must not be empty"),
        (lambda one: one.disconnect(None), "sid must be a str"),
        (lambda one: one.disconnect("a", "chat"), "namespace"),
        (
            lambda one: one.enter_room("a", "room", "/"),
            "enter_room and leave_room take sid, namespace and room",
        ),
        (lambda one: one.enter_room("a", "/", ["b"]), "not list"),
        (lambda one: one.leave_room("", "/", "b"), "sid"),
        (lambda one: one.close_room(""), "room"),
        (lambda one: one.close_room(None), "room"),
        # The third position is the namespace for a manager, and the room for a server of python-socketio.
        (lambda one: one.emit("e", "x", "/chat"), "positional"),
        (lambda one: Emitter(channel=""), "channel must not be empty"),
        (lambda one: Emitter(channel=5), "channel"),
        (lambda one: Emitter("redis://localhost"), "positional"),
    ],
)
def test_wrong_arguments_are_refused_before_anything_is_sent(heard, call, part):
    with pytest.raises(TypeError) as caught:
        call(Emitter())
    assert part in str(caught.value)
    assert heard() == []


# ---- The connection, the channel, and tests of a site -----------------------------------------------------------------


def test_an_emit_is_one_command_on_the_pooled_connection(store):
    emitter = Emitter()
    emitter.emit("warm up")
    before = store.info("stats")["total_connections_received"]
    with commands(store) as seen:
        for _ in range(3):
            assert emitter.emit("e") == 0
    assert [words[:2] for words in seen] == [["PUBLISH", "socketio"]] * 3
    # The monitor is one.
    assert store.info("stats")["total_connections_received"] - before == 1
    assert connection.pool() is connection.pool()


def test_the_channel_is_a_setting_or_an_argument_without_the_prefix(store):
    emitter = Emitter()
    with commands(store) as seen:
        Emitter(channel="mine").emit("e")
        with override_settings(WS4REDIS_SOCKETIO_CHANNEL="project", WS4REDIS_PREFIX="demo"):
            emitter.emit("e")
            Emitter(channel="mine").emit("e")
        emitter.emit("e")
    assert [words[1] for words in seen] == ["mine", "project", "mine", "socketio"]


def test_an_unreachable_redis_is_an_error(tmp_path):
    with override_settings(WS4REDIS_CONNECTION={"unix_socket_path": str(tmp_path / "none.sock")}):
        with pytest.raises(redis.ConnectionError):
            Emitter().emit("e")
        with pytest.raises(redis.ConnectionError):
            Emitter().disconnect("sid")


def test_publications_are_captured(store):
    with capture_publications() as captured:
        Emitter().emit("e", 1, room="a")
        Emitter(channel="mine").disconnect("sid")
    assert [one.channel for one in captured] == ["socketio", "mine"]
    assert isinstance(captured[0], Publication)
    assert captured[0].expire == 0
    assert json.loads(captured[0].message)["room"] == "a"


def test_a_site_s_test_run_does_not_reach_its_clients(store, monkeypatch):
    monkeypatch.setattr("ws4redis.testing._live", 0)
    emitter = Emitter()
    with commands(store) as seen:
        assert emitter.emit("muted") == 0
        with redis_for_tests("test-run"):
            emitter.emit("e")
            with redis_for_tests("inner"):
                Emitter(channel="mine").emit("e")
            emitter.emit("e")
        emitter.emit("muted")
    published = [words[1] for words in seen if words[0] == "PUBLISH"]
    assert published == ["test-run:socketio", "inner:mine", "test-run:socketio"]


def test_an_emitter_of_a_module_survives_a_fork(heard):
    emitter = Emitter()
    emitter.emit("parent")
    child = os.fork()
    if child == 0:
        status = 1
        try:
            emitter.emit("child")
            status = 0
        finally:
            os._exit(status)
    assert os.waitpid(child, 0)[1] == 0
    emitter.emit("parent again")
    assert [json.loads(text)["event"] for text in heard(3)] == ["parent", "child", "parent again"]


def test_the_module_needs_neither_settings_nor_python_socketio():
    blocked = "import sys; sys.modules['socketio'] = None; import ws4redis.socketio as s; print(s.Emitter().__class__)"
    environment = {name: value for name, value in os.environ.items() if name != "DJANGO_SETTINGS_MODULE"}
    done = subprocess.run(
        [sys.executable, "-c", blocked], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
