"""What docs/django-keys.md shows of keys and messages is what the gateway understands, and says."""

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
# Later than any test waits: only the message makes the gateway look.
QUIET = {"session__keyspace_events": "off", "session__recheck_seconds": 1000}


@pytest.fixture
def connect(gateway, john):
    here = gateway(**QUIET)
    return lambda flags=FLAGS: here.connect("foobar", flags, additional_headers={"Cookie": f"sessionid={john.session}"})


class Nobody(http.server.BaseHTTPRequestHandler):
    """A site whose visitors are all unknown to it."""

    def do_GET(self):
        self.send_response(200)
        self.send_header("Content-Length", "4")
        self.end_headers()
        self.wfile.write(b"null")

    def log_message(self, *_):
        pass


@pytest.fixture
def callback():
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Nobody)
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
    # The hash of the session is none of these.
    store.client.set(key, text)
    with connect() as client:
        store.client.publish("user:john:foobar", "to John")
        client.expect_nothing_before(lambda marker: store.client.publish(f"session:{john.session}:foobar", marker))


@shows(KEYS, CONTROL, 1)
def test_a_hint_about_a_user(blocks, connect, store):
    with connect() as client:
        store.client.set("ws4redis:identity:1", '{"v":1,"active":false}')
        assert store.client.publish("ws4redis:control", blocks[0].filled({"<pk>": "1"}).strip()) == 1
        client.expect_close(4401)


@shows(KEYS, CONTROL, 2)
def test_a_hint_about_a_session(blocks, connect, store, john):
    digest = hashlib.sha256(f"ws4redis:session:{john.session}".encode()).hexdigest()
    with connect() as client:
        john.log_out()
        assert store.client.publish("ws4redis:control", blocks[0].filled({"<64 hex digits>": digest}).strip()) == 1
        client.expect_close(4401)


@shows(KEYS, CONTROL, 3, 4)
def test_the_doctors_question_and_its_answer(blocks, gateway, store, john, callback):
    question, answer = blocks
    secret = "of-the-tests-of-the-documents"
    gateway(auth__callback_url=callback, auth__callback_secret=secret)
    key = f":1:django.contrib.sessions.cache{john.session}"
    store.client.set(key, json.dumps(json.loads(store.client.get(key)) | {"ws4redis:doctor": NONCE}), ex=60)
    ear = store.client.pubsub(ignore_subscribe_messages=True)
    ear.subscribe(f"ws4redis:doctor:{NONCE}")
    words = {"<32 hex digits>": NONCE, "<session key>": john.session}
    until(lambda: store.client.publish("ws4redis:control", question.filled(words)), 1, "the gateway")
    got = until(lambda: ear.get_message(timeout=1), bool, "the answer")
    ear.close()
    said, shown = json.loads(got["data"]), json.loads(answer.code)
    assert list(said) == list(shown)
    assert {name: type(value) for name, value in said.items()} == {name: type(value) for name, value in shown.items()}
    same = ("v", "version", "prefix", "websocket_url", "heartbeat", "cookie", "probe", "callback")
    assert [said[name] for name in same] == [shown[name] for name in same]
    proof = hmac.new(secret.encode(), f"ws4redis:doctor:{NONCE}".encode(), "sha256").hexdigest()
    assert said["callback_proof"] == proof
    assert shown["keys"][0] in said["keys"]
