"""The official clients of yunity-sockets (1.7.4) and of today at the paths of both bridges."""

import json

import pytest
import redis

from conftest import FOLDER, NodeProcess
from harness import Gateway, RedisServer, until

TRANSPORTS = ["websocket", "polling", "polling,websocket"]


@pytest.fixture(scope="module")
def store():
    server = RedisServer()
    redis.Redis(port=server.port).config_set("notify-keyspace-events", "KA")
    yield server
    server.stop()


@pytest.fixture(scope="module")
def gateway(store):
    server = Gateway(
        redis__url=store.url,
        server__shards=3,
        socketio__yunity__enabled="true",
        socketio__messenger__enabled="true",
        socketio__messenger__connections_key="socket_connections",
    )
    yield server
    server.stop()


@pytest.fixture
def connect(gateway):
    clients = []

    def connect_client(major, path, transports, *events):
        url = f"http://127.0.0.1:{gateway.port}"
        clients.append(NodeProcess(FOLDER / "bridge.js", str(major), url, path, transports, *events))
        event, sid = clients[-1].next()
        assert event == "connect" and sid
        return clients[-1], sid

    yield connect_client
    for client in clients:
        client.close()


def emit(client, *event):
    client.process.stdin.write(json.dumps(event) + "\n")
    client.process.stdin.flush()


@pytest.mark.parametrize("transports", TRANSPORTS)
@pytest.mark.parametrize("major", [1, 4])
def test_a_client_of_yunity_sockets_gets_the_notifications_of_its_user(store, connect, major, transports):
    site = redis.Redis(port=store.port)
    session, user = f"{major}-{len(transports)}", f"user{major}{len(transports)}"
    client, _ = connect(major, "/socket", transports, "message")
    emit(client, "authenticate", {"sessionId": session})
    site.set(f"session-store-{session}", user)
    channel = f"__keyspace@0__:session-store-{session}"
    until(lambda: site.pubsub_numsub(channel)[0][1], 1, "the subscription to the session")

    def notify(payload):
        site.publish("notifications", json.dumps({"users": [user], "type": "foo", "payload": payload}))

    def arrives():
        notify("ready")
        return not client.lines.empty()

    until(arrives, True, "the first notification")
    notify({"ż": [1, None]})
    while (happened := client.next()) == ["message", {"type": "foo", "payload": "ready"}]:
        pass
    assert happened == ["message", {"type": "foo", "payload": {"ż": [1, None]}}]


@pytest.mark.parametrize("transports", TRANSPORTS)
@pytest.mark.parametrize("major", [1, 4])
def test_a_client_of_the_messenger_gets_tasks_and_reports_itself(store, connect, major, transports):
    site = redis.Redis(port=store.port)
    names = ["server-action:update_user_online", "server-action:chat_message", "server-action:ping", "act"]
    client, sid = connect(major, "/websocket", transports, *names)

    def task(**message):
        assert site.publish("notifications", json.dumps(message)) == 1
        return message

    online = task(task="user_online", user={"id": 7})
    assert client.next() == ["server-action:update_user_online", online]
    chat = task(task="send_chat_message_to_sids", sids=[sid], data="ż")
    assert client.next() == ["server-action:chat_message", {"data": chat}]
    put = task(task="put_to_socket", data={"socket_id": sid, "action": "act"})
    assert client.next() == ["act", {"data": put["data"]}]
    task(task="gather_active_connections")
    assert client.next()[0] == "server-action:ping"
    emit(client, "ng-action", {"action": "pong", "socket_id": sid, "token": "t"})
    until(lambda: json.loads(site.get("socket_connections")), [{"socket_id": sid, "token": "t"}], "the list")
