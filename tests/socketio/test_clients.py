"""The official clients, driven by python-socketio's RedisManager."""

import threading
import time

import pytest
import redis
import socketio

from harness import DEADLINE, Gateway, until

TRANSPORTS = ["websocket", "polling", "polling,websocket"]


def connected(client):
    """Returns the id of a client that has connected."""
    event, sid = client.next()
    assert event == "connect" and sid
    return sid


@pytest.mark.parametrize("transports", TRANSPORTS)
@pytest.mark.parametrize("major", [1, 2, 3, 4])
def test_javascript_clients_get_events_rooms_and_the_disconnect(connect, manager, major, transports):
    client = connect(major, transports)
    sid = connected(client)
    other = connect(major, transports)
    other_sid = connected(other)
    manager.emit("upload", None, room=sid)
    # Once the upgrade is done, the transport is the last one of the list.
    last = transports.split(",")[-1]
    deadline = time.monotonic() + DEADLINE
    for each, own in ((client, sid), (other, other_sid)):
        manager.emit("news", "warm-up", room=own)
        while each.next()[1] != last:
            assert time.monotonic() < deadline
            manager.emit("news", "warm-up", room=own)
    text = {"text": "ż€🎉", "numbers": [1, 2.5, None, True]}
    manager.emit("news", text)
    manager.emit("news", ("file", b"\x00\xff", 3), room=sid)
    manager.enter_room(sid, "/", "room")
    manager.emit("news", "in the room", room="room")
    manager.emit("news", "for others", skip_sid=sid)
    manager.leave_room(sid, "/", "room")
    manager.emit("news", "nobody", room="room")
    manager.emit("news", "last")
    expected = [[text], ["file", {"bytes": "00ff"}, 3], ["in the room"], ["last"]]
    assert [client.next() for _ in expected] == [["news", last, *values] for values in expected]
    expected = [[text], ["for others"], ["last"]]
    assert [other.next() for _ in expected] == [["news", last, *values] for values in expected]
    # A write-only manager cannot call disconnect().
    manager._publish({"method": "disconnect", "sid": sid, "namespace": "/", "host_id": manager.host_id})
    assert client.next() == ["disconnect", "io server disconnect"]


@pytest.mark.parametrize("major", [1, 2, 3, 4])
def test_an_acknowledgement_reaches_the_publisher(connect, store, manager, major):
    sid = connected(connect(major, "polling"))
    subscriber = redis.Redis(port=store.port).pubsub(ignore_subscribe_messages=True)
    subscriber.subscribe("socketio")
    until(lambda: redis.Redis(port=store.port).pubsub_numsub("socketio")[0][1], 2, "the subscription")
    question = {
        "method": "emit",
        "event": "question",
        "data": [21],
        "binary": False,
        "namespace": "/",
        "room": sid,
        "skip_sid": None,
        "callback": [sid, "/", 5],
        "host_id": manager.host_id,
    }
    manager._publish(question)
    messages = []

    def answered():
        message = subscriber.get_message(timeout=1)
        messages.extend([message["data"]] if message else [])
        return [text for text in messages if b'"callback","host_id"' in text]

    (answer,) = until(answered, lambda found: len(found) == 1, "the acknowledgement")
    assert b'"id":5,"args":[{"twice":42}]' in answer and manager.host_id.encode() in answer
    subscriber.close()


def test_clients_come_back_after_a_restart_of_the_gateway(store, manager, connect_to):
    settings = {"redis__url": store.url, "socketio__enabled": "true"}
    gateway = Gateway(**settings)
    clients = [connect_to(gateway, major, transport, "reconnect") for major in (1, 2, 3, 4) for transport in TRANSPORTS]
    for client in clients:
        connected(client)
    gateway.stop()
    gateway = Gateway(port=gateway.port, **settings)

    def next_of(client, event):
        while (happened := client.next())[0] != event:
            assert happened[0] in ("disconnect", "connect_error", "error"), happened
        return happened

    for client in clients:
        next_of(client, "connect")
    manager.emit("news", "after the restart")
    for client in clients:
        assert next_of(client, "news")[2:] == ["after the restart"]
    gateway.stop()


@pytest.mark.parametrize("transports", TRANSPORTS)
def test_the_python_client_gets_events(gateway, manager, transports):
    client = socketio.Client(reconnection=False)
    got, arrived = [], threading.Event()

    @client.on("news")
    def on_news(*values):
        got.append(values)
        arrived.set()

    client.connect(f"http://127.0.0.1:{gateway.port}", transports=transports.split(","), wait_timeout=DEADLINE)
    manager.emit("news", ("ż", b"\x00\xff"), room=client.get_sid())
    assert arrived.wait(DEADLINE)
    assert got == [("ż", b"\x00\xff")]
    manager._publish({"method": "disconnect", "sid": client.get_sid(), "namespace": "/", "host_id": "x"})
    until(lambda: client.connected, False, "the disconnect")
