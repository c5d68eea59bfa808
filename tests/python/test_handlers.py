"""Handlers and receivers of events, and the events themselves. test_worker.py has the worker that reads them."""

import base64
import json
import os
import subprocess
import sys

import pytest

import ws4redis
from ws4redis import handlers, signals
from ws4redis.events import Event, EventsKey, MalformedEvent
from ws4redis.testing import dispatch_event


@pytest.fixture(autouse=True)
def calls(monkeypatch):
    """The events that handlers got; the test's registrations are removed at its end."""
    monkeypatch.setattr(handlers, "_registrations", [])
    return []


# ---- Decorators ------------------------------------------------------------------------------------------------------


def test_a_handler_gets_the_messages_of_its_facilities(calls):
    @ws4redis.on_message("chat-*", "news", "a?c*.")
    def store(event):
        calls.append(event.facility)

    for facility in ("chat-5", "chat-", "chat", "news", "news-2", "", "abc-x.", "abc-x"):
        dispatch_event("message", facility=facility)
    dispatch_event("connect", facility="news")
    assert calls == ["chat-5", "chat-", "news", "abc-x."]


@pytest.mark.parametrize("decorate", [ws4redis.on_message, ws4redis.on_message(), ws4redis.on_message("*")])
def test_a_handler_without_names_gets_all_messages(calls, decorate):
    decorate(calls.append)
    dispatch_event("message", facility="a", data="text")
    assert calls == [Event("message", "relay", facility="a", data="text")]


def test_a_decorated_function_stays_a_function():
    @ws4redis.on_connect
    @ws4redis.on_disconnect("a")
    @ws4redis.on_node(state="start")
    def handler(event):
        return event.type

    assert handler(Event("connect")) == "connect"
    assert dispatch_event("connect") == ["connect"]


def test_connections_are_filtered_by_facility_namespace_and_dialect(calls):
    ws4redis.on_connect("chat-*")(lambda event: calls.append("facility"))
    ws4redis.on_connect("*")(lambda event: calls.append("any facility"))
    ws4redis.on_connect(namespace="/admin")(lambda event: calls.append("namespace"))
    ws4redis.on_connect(dialect="socket_io")(lambda event: calls.append("dialect"))
    ws4redis.on_connect(lambda event: calls.append("all"))

    def called(**fields):
        calls.clear()
        dispatch_event("connect", **fields)
        return list(calls)

    assert called(facility="chat-5") == ["facility", "any facility", "all"]
    assert called(dialect="socket_io", namespace="/") == ["dialect", "all"]
    assert called(dialect="socket_io", namespace="/admin") == ["namespace", "dialect", "all"]


@pytest.mark.parametrize("type", ["disconnect", "user", "online", "offline", "node"])
def test_each_type_has_a_decorator(calls, type):
    handler = calls.append
    getattr(ws4redis, f"on_{type}")(handler)
    getattr(ws4redis, f"on_{type}")()(handler)
    dispatch_event(type)
    dispatch_event("message")
    assert [event.type for event in calls] == [type], "a function that is registered twice is called once"


def test_nodes_are_filtered_by_state(calls):
    ws4redis.on_node(state="stop")(lambda event: calls.append(event.state))
    dispatch_event("node", state="start")
    dispatch_event("node", state="stop")
    assert calls == ["stop"]


def test_client_events_are_those_of_the_main_namespace_by_default(calls):
    ws4redis.on_event("hello", "chat_*")(lambda event: calls.append(event.event))
    ws4redis.on_event("hello", namespace="/admin")(lambda event: calls.append("admin"))
    ws4redis.on_event(namespace=None)(lambda event: calls.append("any"))
    for namespace in ("/", "/admin"):
        for event in ("hello", "chat_x", "other"):
            dispatch_event("event", event=event, namespace=namespace)
    assert calls == ["hello", "any", "chat_x", "any", "any", "admin", "any", "any", "any"]


@pytest.mark.parametrize(
    ("call", "error"),
    [
        (lambda: ws4redis.on_message(5), TypeError),
        (lambda: ws4redis.on_message("a", print), TypeError),
        (lambda: ws4redis.on_message(""), ValueError),
        (lambda: ws4redis.on_event("a*b"), ValueError),
        (lambda: ws4redis.on_event("a", ""), ValueError),
        (lambda: ws4redis.on_online("john"), TypeError),
        (lambda: ws4redis.on_node("start"), TypeError),
        (lambda: ws4redis.on_node(state="up"), ValueError),
        (lambda: ws4redis.on_message("a")("b"), TypeError),
    ],
)
def test_wrong_arguments_are_refused_at_the_registration(call, error):
    with pytest.raises(error):
        call()
    assert not handlers.any_registered()


@pytest.mark.parametrize(
    ("results", "arguments"),
    [
        ([None], []),
        (["x"], ["x"]),
        ([("a", 1)], ["a", 1]),
        ([[1, 2]], [[1, 2]]),
        ([None, 0, 1], [0]),
        ([()], []),
    ],
)
def test_the_first_result_is_the_acknowledgement(results, arguments):
    for result in results:
        ws4redis.on_event("ask")(lambda event, result=result: result)
    assert dispatch_event("event", event="ask", id=1) == arguments


def test_an_event_without_a_handler_is_not_acknowledged(calls):
    signals.event_received.connect(lambda **_: calls.append(1), weak=False, dispatch_uid="test")
    try:
        assert dispatch_event("event", event="ask", id=1) is None
    finally:
        signals.event_received.disconnect(dispatch_uid="test")
    assert calls == [1]


def test_a_second_run_calls_only_what_failed(calls):
    failing = {"handler", "receiver", "async"}

    def fail(name):
        calls.append(name)
        if name in failing:
            raise ValueError(name)

    ws4redis.on_message(lambda event: fail("other"))
    ws4redis.on_message(lambda event: fail("handler"))

    @ws4redis.on_message
    async def in_a_loop(event):
        fail("async")

    def receiver(sender, event, **_):
        assert sender is Event
        fail("receiver")

    def sound(event, **_):
        fail("sound")

    for function in (receiver, sound):
        signals.message_received.connect(function)
    run = handlers.HandlerRun(Event("message"))
    try:
        first = run.call()
        assert calls == ["other", "handler", "async", "receiver", "sound"]
        calls.clear()
        failing.remove("handler")
        second = run.call()
        assert calls == ["handler", "async", "receiver"]
        calls.clear()
        failing.clear()
        assert run.call() == []
        assert calls == ["async", "receiver"]
    finally:
        for function in (receiver, sound):
            signals.message_received.disconnect(function)
    assert [str(failure.__cause__) for failure in first] == ["handler", "async", "receiver"]
    assert [failure.handler.rsplit(".", 1)[1] for failure in second] == ["in_a_loop", "receiver"]


def test_a_failure_in_a_sites_test_is_the_handlers_own(calls):
    @ws4redis.on_offline
    def broken(event):
        raise KeyError("x")

    ws4redis.on_offline(calls.append)
    with pytest.raises(KeyError, match="x"):
        dispatch_event("offline", user="john")
    assert len(calls) == 1


def test_unknown_types_have_no_handlers():
    assert dispatch_event("of a newer gateway", user="john") is None


def test_the_package_needs_no_settings_and_loads_handlers_on_demand():
    code = (
        "import sys, ws4redis; assert 'django' not in sys.modules, 'eager'; assert 'on_message' in dir(ws4redis); "
        "ws4redis.on_message('a*')(print); print(ws4redis.Event('x').type)"
    )
    environment = {name: value for name, value in os.environ.items() if name != "DJANGO_SETTINGS_MODULE"}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False
    )
    assert done.stdout == "x\n", done.stderr


# ---- The JSON of the gateway -----------------------------------------------------------------------------------------


def parsed(**fields):
    return Event.from_json(json.dumps(fields))


def encoded(data):
    return base64.b64encode(data).decode()


def test_a_message_has_its_fields():
    event = parsed(
        type="message", dialect="relay", node="0" * 32, user=None, sid="s", time=1795993052.12, facility="chat-5",
        audiences=["broadcast", "user:john"], data="ż€", binary=False, newer={"a": 1},
    )  # fmt: skip
    assert event == Event(
        "message", "relay", "0" * 32, None, "s", 1795993052.12, "chat-5", ("broadcast", "user:john"), "ż€"
    )
    assert event.raw["newer"] == {"a": 1}
    with pytest.raises(AttributeError):
        event.data = "other"


def test_an_event_shows_what_it_has():
    assert repr(parsed(type="event", args=["x"], id=0)) == "Event(type='event', args=('x',), id=0)"


def test_binary_messages_are_bytes():
    assert parsed(type="message", data=encoded(b"\x00\xff"), binary=True).data == b"\x00\xff"


def test_binary_arguments_are_filled_in():
    first, second = ({"_placeholder": True, "num": number} for number in (0, 1))
    args = [["hello", {"a": [second]}, first, {"_placeholder": False}], encoded(b"x"), encoded(b"")]
    event = parsed(type="event", event="e", namespace="/", args=args, binary=True, id=7)
    assert event.args == ("hello", {"a": [b""]}, b"x", {"_placeholder": False})
    assert event.id == 7


def test_missing_and_null_fields_are_empty():
    assert parsed(type="connect", auth=None, id=None, args=None) == Event("connect")
    assert parsed(type="connect", auth={"page": "/"}).auth == {"page": "/"}


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"{",
        b"[]",
        b'"text"',
        b"{}",
        b'{"type": ""}',
        b'{"type": 5}',
        b'{"type": "message", "user": 5}',
        b'{"type": "event", "args": {}}',
        b'{"type": "event", "id": true}',
        b'{"type": "message", "data": "!", "binary": true}',
        b'{"type": "event", "args": [5], "binary": true}',
        b'{"type": "event", "args": [[], 5], "binary": true}',
        b'{"type": "event", "args": [[{"_placeholder": true, "num": 0}]], "binary": true}',
        b'{"type": "event", "args": [[{"_placeholder": true, "num": -1}], "eA=="], "binary": true}',
        b'{"type": "message", "data": "\xff"}',
        b"[" * 100_000,
    ],
)
def test_what_the_gateway_never_writes_is_malformed(text):
    with pytest.raises(MalformedEvent):
        Event.from_json(text)


def test_streams_and_lists_are_read_and_channels_are_refused_with_the_reason():
    assert EventsKey.parse("stream:ws4redis:events") == ("stream", "ws4redis:events")
    assert EventsKey.parse("list:a") == ("list", "a")
    with pytest.raises(ValueError, match="two workers would handle each event twice"):
        EventsKey.parse("channel:ws4redis:events")
    for wrong in ("", "stream:", "stream", "ws4redis:events", "channels:x", None, b"stream:x"):
        with pytest.raises(ValueError, match="must be stream:KEY or list:KEY"):
            EventsKey.parse(wrong)
