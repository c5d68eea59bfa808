"""The gateway reads the keys and messages of docs/django-keys.md, and writes its replies."""

import hashlib
import hmac
import http.server
import json
import threading

import pytest
from documents import shows
from harness import until

KEYS = "docs/django-keys.md"
CONTROL = "The control channel: `ws4redis:control`"
NONCE = "0123456789abcdef" * 2
FLAGS = "subscribe-user&subscribe-group&subscribe-session"
# No keyspace events and no recheck during a test: only the control message triggers the gateway.
QUIET = {"session__keyspace_events": "off", "session__recheck_seconds": 1000}


@pytest.fixture
def connect(gateway, john):
    here = gateway(**QUIET)
    return lambda flags=FLAGS: here.connect("foobar", flags, additional_headers={"Cookie": f"sessionid={john.session}"})


class AnonymousCallback(http.server.BaseHTTPRequestHandler):
    """An identity callback that reports every visitor as unknown."""

    def do_GET(self):
        self.send_response(200)
        self.send_header("Content-Length", "4")
        self.end_headers()
        self.wfile.write(b"null")

    def log_message(self, *_):
        pass


@pytest.fixture
def callback():
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), AnonymousCallback)
    threading.Thread(target=server.serve_forever, args=[0.05], daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/"
    server.shutdown()
    server.server_close()


@shows(KEYS, "The key of a user: `ws4redis:identity:<pk>`")
def test_the_key_of_a_user(blocks, connect, store, john):
    key = "ws4redis:identity:1"
    text = blocks[0].code.strip()
    store.client.set(key, text.replace('"<hex>"', '"h"', 1))
    with connect() as client:
        for channel in ("user:john:foobar", "group:chatusers:foobar", "group:red team:foobar"):
            assert store.client.publish(channel, channel) == 1
            client.expect(channel)
    # The key does not contain the hash of the session.
    store.client.set(key, text)
    with connect() as client:
        store.client.publish("user:john:foobar", "to John")
        client.expect_nothing_before(lambda marker: store.client.publish(f"session:{john.session}:foobar", marker))


@shows(KEYS, CONTROL, 1)
def test_an_invalidation_of_a_user(blocks, connect, store):
    with connect() as client:
        store.client.set("ws4redis:identity:1", '{"v":1,"active":false}')
        assert store.client.publish("ws4redis:control", blocks[0].filled({"<pk>": "1"}).strip()) == 1
        client.expect_close(4401)


@shows(KEYS, CONTROL, 2)
def test_an_invalidation_of_a_session(blocks, connect, store, john):
    digest = hashlib.sha256(f"ws4redis:session:{john.session}".encode()).hexdigest()
    with connect() as client:
        john.log_out()
        assert store.client.publish("ws4redis:control", blocks[0].filled({"<64 hex digits>": digest}).strip()) == 1
        client.expect_close(4401)


@shows(KEYS, CONTROL, 3, 4)
def test_the_query_of_the_doctor_and_its_reply(blocks, gateway, store, john, callback):
    question, answer = blocks
    secret = "of-the-tests-of-the-documents"
    told = {"events__to": "stream:ws4redis:events", "socketio__enabled": "true"}
    gateway(auth__callback_url=callback, auth__callback_secret=secret, **told)
    key = f":1:django.contrib.sessions.cache{john.session}"
    store.client.set(key, json.dumps(json.loads(store.client.get(key)) | {"ws4redis:doctor": NONCE}), ex=60)
    recorder = store.client.pubsub(ignore_subscribe_messages=True)
    recorder.subscribe(f"ws4redis:doctor:{NONCE}")
    words = {"<32 hex digits>": NONCE, "<session key>": john.session}
    until(lambda: store.client.publish("ws4redis:control", question.filled(words)), 1, "the gateway")
    message = until(lambda: recorder.get_message(timeout=1), bool, "the answer")
    recorder.close()
    reply, shown = json.loads(message["data"]), json.loads(answer.code)
    assert list(reply) == list(shown)
    assert {name: type(value) for name, value in reply.items()} == {name: type(value) for name, value in shown.items()}
    same = ("v", "version", "prefix", "websocket_url", "heartbeat", "cookie", "probe", "events", "callback")
    same += ("socketio", "socketio_channels", "presence")
    assert [reply[name] for name in same] == [shown[name] for name in same]
    proof = hmac.new(secret.encode(), f"ws4redis:doctor:{NONCE}".encode(), "sha256").hexdigest()
    assert reply["callback_proof"] == proof
    assert shown["keys"][0] in reply["keys"]
