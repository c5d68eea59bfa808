"""The emitters of Node, and servers with the Redis adapter, publish to the official clients."""

import re
import subprocess
from pathlib import Path

import pytest
import socketio
from harness import DEADLINE, Gateway
from test_clients import connected

FOLDER = Path(__file__).parent
DOCUMENT = FOLDER.parents[1] / "docs" / "socketio.md"

KINDS = ["emitter-3", "emitter-4", "emitter-5", "server"]


@pytest.fixture
def clients(connect):
    """Two clients with their ids."""
    pair = [connect(major, "websocket") for major in (4, 2)]
    return [(client, connected(client)) for client in pair]


def arguments(client):
    event, _, *values = client.next()
    assert event == "news"
    return values


@pytest.mark.parametrize("kind", KINDS)
def test_events_reach_rooms_with_attachments_and_dates(publisher, clients, manager, kind):
    (one, one_sid), (two, two_sid) = clients
    publish = publisher(kind)
    for sid, room in ((one_sid, "a"), (two_sid, "b"), (one_sid, "user:42")):
        manager.enter_room(sid, "/", room)
    # Between publishers there is no order: the clients are in their rooms once they get this.
    manager.emit("news", "ready")
    assert [arguments(client) for client, _ in clients] == [["ready"]] * 2
    values = [{"text": "ż🎉", "numbers": [1.5, -7, 2**40, None, True]}, {"bytes": "00ff"}, {"date": 951782400001}]
    publish.call("emit", {}, "news", *values)
    expected = [values[0], {"bytes": "00ff"}, "2000-02-29T00:00:00.001Z"]
    assert arguments(one) == arguments(two) == expected
    publish.call("emit", {"rooms": ["a", "b", "user:42", "none"]}, "news", "union")
    assert arguments(one) == arguments(two) == ["union"]
    publish.call("emit", {"rooms": ["user:42"]}, "news", "one room")
    publish.call("emit", {"rooms": [two_sid], "volatile": True}, "news", "one client")
    publish.call("emit", {}, "news")
    assert [arguments(one), arguments(one)] == [["one room"], []]
    assert [arguments(two), arguments(two)] == [["one client"], []]


@pytest.mark.parametrize("kind", KINDS[1:])
def test_joins_leaves_exceptions_and_disconnects(publisher, clients, kind):
    (one, one_sid), (two, two_sid) = clients
    publish = publisher(kind)
    publish.call("join", {"rooms": [one_sid]}, ["joined", "other"])
    publish.call("join", {}, "all")
    publish.call("emit", {"rooms": ["joined"]}, "news", 1)
    publish.call("emit", {"rooms": ["all"]}, "news", 2)
    assert [arguments(one), arguments(one), arguments(two)] == [[1], [2], [2]]
    publish.call("emit", {"except": ["joined"]}, "news", 3)
    publish.call("emit", {"rooms": ["all"], "except": [two_sid]}, "news", 4)
    publish.call("leave", {"rooms": ["joined"]}, ["joined", "all"])
    publish.call("emit", {}, "news", 5)
    assert [arguments(two), arguments(two)] == [[3], [5]]
    assert [arguments(one), arguments(one)] == [[4], [5]]
    publish.call("disconnect", {"rooms": ["other"]}, kind == "emitter-5")
    assert one.next() == ["disconnect", "io server disconnect"]
    publish.call("emit", {}, "news", 6)
    assert arguments(two) == [6]


def test_a_server_does_not_wait_for_the_gateway(publisher, clients):
    publish = publisher("server")
    # It would fail after five seconds: "timeout reached: only 0 responses received".
    assert publish.call("count", {}) == 0


def test_the_documented_service_reaches_the_clients(store, tmp_path):
    section = DOCUMENT.read_text().split("## Publish from Node (redis-emitter)\n")[1].split("\n## ")[0]
    [settings] = re.findall(r"(?ms)^```toml\n(.*?)^```$", section)
    [code] = re.findall(r"(?ms)^```js\n(.*?)^```$", section)
    file = tmp_path / "settings.toml"
    file.write_text(settings)
    gateway = Gateway(file=file, redis__url=store.url)
    one, two = socketio.SimpleClient(), socketio.SimpleClient()
    chat = socketio.SimpleClient()
    for client, namespace in ((one, "/"), (two, "/"), (chat, "/chat")):
        client.connect(f"http://127.0.0.1:{gateway.port}", namespace=namespace, wait_timeout=DEADLINE)
    manager = socketio.RedisManager(store.url, write_only=True)
    manager.enter_room(two.sid, "/", "editors")
    assert "127.0.0.1:6379" in code
    code = code.replace("127.0.0.1:6379", f"127.0.0.1:{store.port}")
    script = f"const sid = {one.sid!r};\n{code}\nawait redis.quit();\n"
    command = ["node", "--input-type=module", "--eval", script]
    subprocess.run(command, cwd=FOLDER, check=True, timeout=DEADLINE)
    assert one.receive(DEADLINE) == ["news", {"id": 7}]
    assert one.receive(DEADLINE) == ["edited", 7]
    expected = [["news", {"id": 7}], ["progress", 3, b"\n"], ["edited", 7]]
    assert [two.receive(DEADLINE) for _ in expected] == expected
    assert chat.receive(DEADLINE) == ["message", "Hello"]
    for client in (one, two, chat):
        client.disconnect()
    gateway.stop()
