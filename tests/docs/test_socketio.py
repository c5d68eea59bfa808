"""The settings of docs/socketio.md, with the real publishers and python-socketio's client."""

import json
import queue

import flask_socketio
import pytest
import socketio
from documents import shows
from harness import DEADLINE, unique, until

DOCUMENT = "docs/socketio.md"


@pytest.fixture
def connect(gateway, store, tmp_path):
    """Starts a gateway with these settings; returns a function that connects a client, which returns its events."""
    clients = []

    def start(settings):
        file = tmp_path / "settings.toml"
        file.write_text(settings)
        url = f"http://127.0.0.1:{gateway(file=file).port}"

        def connect(headers=None, path="socket.io", said=None):
            client, events = socketio.Client(), queue.Queue()
            client.on("*", lambda event, *values: events.put((event, *values)))
            clients.append(client)
            client.connect(url, headers=headers or {}, socketio_path=path, wait_timeout=DEADLINE)
            if said is not None:
                client.emit(*said)
            return events

        return connect

    yield start
    for client in clients:
        client.disconnect()


@shows(DOCUMENT, "Turn it on")
def test_a_client_receives_events(blocks, connect, store):
    (settings,) = blocks
    events = connect(settings.code)()
    socketio.RedisManager(store.url, write_only=True).emit("news", {"id": 7})
    assert events.get(timeout=DEADLINE) == ("news", {"id": 7})


@shows(DOCUMENT, "Clients, users and rooms")
def test_rooms_follow_the_identity(blocks, connect, store, john):
    (settings,) = blocks
    connected = connect(settings.code)
    known = connected({"Cookie": f"sessionid={john.session}"})
    anonymous = connected()
    publisher, last = socketio.RedisManager(store.url, write_only=True), unique()
    publisher.emit("news", "John's", room="ws4redis:user:john")
    publisher.emit("news", last)
    assert known.get(timeout=DEADLINE) == ("news", "John's")
    assert anonymous.get(timeout=DEADLINE) == ("news", last)


@shows(DOCUMENT, "Move from Flask-SocketIO")
def test_flask_socketio_publishes(blocks, connect, store):
    (settings,) = blocks
    events = connect(settings.code)()
    flask_socketio.SocketIO(message_queue=store.url).emit("news", {"id": 7})
    assert events.get(timeout=DEADLINE) == ("news", {"id": 7})


def publish_until_heard(store, message, events):
    """Publishes until the gateway knows the client; returns the first event."""

    def attempt():
        store.client.publish("notifications", json.dumps(message))
        try:
            return events.get(timeout=0.1)
        except queue.Empty:
            return None

    return until(attempt, bool, "the event")


@shows(DOCUMENT, "Move from yunity-sockets")
def test_the_bridge_for_yunity_sockets(blocks, connect, store):
    (settings,) = blocks
    store.client.set("session-store-abc", "7", ex=60)
    events = connect(settings.code)(path="socket", said=("authenticate", {"sessionId": "abc"}))
    heard = publish_until_heard(store, {"users": ["7"], "payload": "hi"}, events)
    assert heard == ("message", {"payload": "hi"})


@shows(DOCUMENT, "Move from the messenger's socket server")
def test_the_bridge_for_the_messenger(blocks, connect, store):
    (settings,) = blocks
    events = connect(settings.code)(path="websocket")
    message = {"task": "user_online", "user": 7}
    heard = publish_until_heard(store, message, events)
    assert heard == ("server-action:update_user_online", message)
