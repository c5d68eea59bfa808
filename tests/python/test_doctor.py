"""`manage.py ws4redis_doctor`, with gateways that reply correctly, wrongly, or not at all."""

import base64
import hashlib
import hmac
import json
import re
import socket
import threading
from io import StringIO

import pytest
import redis
from django.core.management import CommandError, call_command
from django.test import override_settings
from stores import DEADLINE_SECONDS

from ws4redis import facilities

SECRET = "a secret of some length"


@pytest.fixture
def gateway(store):
    """Returns `start(prefix, answer)`: starts a gateway that replies with `answer(query)`, unless that is None."""
    threads = []

    def start(prefix="", answer=lambda query: None):
        pubsub = store.pubsub(ignore_subscribe_messages=True)
        pubsub.subscribe(f"{prefix}ws4redis:control")
        pubsub.get_message(timeout=DEADLINE_SECONDS)
        end = threading.Event()

        def serve():
            while not end.is_set():
                message = pubsub.get_message(timeout=0.05)
                if message is None:
                    continue
                query = json.loads(message["data"])
                reply = answer(query)
                if reply is not None:
                    store.publish(f"{prefix}ws4redis:doctor:{query['doctor']}", json.dumps(reply))
            pubsub.close()

        thread = threading.Thread(target=serve)
        thread.start()
        threads.append((thread, end))

    yield start
    for thread, end in threads:
        end.set()
        thread.join()


def report(wait=0.5, site=None, **options):
    """Runs the doctor; returns its output, and whether it found an error."""
    out = StringIO()
    try:
        call_command("ws4redis_doctor", wait=wait, site=site, stdout=out, no_color=True, **options)
    except CommandError:
        return out.getvalue(), True
    return out.getvalue(), False


def written(text):
    """Returns the settings that the doctor prints, parsed."""
    # New in Python 3.11.
    tomllib = pytest.importorskip("tomllib")
    return tomllib.loads(text.partition("as its settings.toml:\n")[2])


def sound(store, **other):
    """Returns the `answer` of a gateway that finds the doctor's session in the store."""

    def answer(query):
        key = f":1:django.contrib.sessions.cache{query['session']}"
        probe = "read" if query["doctor"].encode() in (store.get(key) or b"") else "missing"
        template = ":1:django.contrib.sessions.cache{key}"
        return {"v": 1, "server": "gateway-1", "websocket_url": "/ws/", "heartbeat": "--heartbeat--"} | {
            "cookie": "sessionid",
            "keys": [template],
            "probe": probe,
            **other,
        }

    return answer


def sound_without_sessions(**other):
    """Returns the `answer` of a gateway that looks for no session, since it asks the site."""
    answer = {"v": 1, "server": "gateway-1", "websocket_url": "/ws/", "heartbeat": "--heartbeat--"}
    return lambda query: answer | {"cookie": "sessionid"} | other


def test_matching_settings_have_no_error(store, gateway):
    gateway(answer=sound(store))
    text, failed = report()
    assert "a session that was just stored is at :1:django.contrib.sessions.cache{key}" in text
    assert "gateway-1: all settings match" in text
    assert not failed
    # The doctor has deleted its test session.
    assert store.keys("*") == []


FEATURES = {
    "events": "stream:ws4redis:events",
    "socketio": True,
    "socketio_channels": ["socketio"],
    "presence": True,
}


def test_features_that_are_on_and_match(store, gateway):
    gateway(answer=sound(store, **FEATURES))
    text, failed = report()
    assert "gateway-1: all settings match" in text
    assert "off there" not in text
    assert not failed


@pytest.mark.parametrize(
    ("other", "expected"),
    [
        ({"events": ""}, "off there: events (events.to), so ws4redis_worker gets nothing"),
        ({"socketio": False, "socketio_channels": []}, "off there: Socket.IO (socketio.enabled), so Emitter"),
        ({"presence": False}, "off there: presence ([[presence]] or events), so is_online() is always False"),
    ],
)
def test_features_that_are_off_are_named(store, gateway, other, expected):
    gateway(answer=sound(store, **FEATURES | other))
    text, failed = report()
    assert expected in text
    assert "all settings match" not in text
    assert not failed


@pytest.mark.parametrize(
    ("other", "setting", "expected"),
    [
        (
            {"events": "list:other"},
            {},
            "events.to is 'list:other' in the gateway and WS4REDIS_EVENTS 'stream:",
        ),
        (
            {"events": ""},
            {"WS4REDIS_EVENTS": "list:mine"},
            "events.to is '' in the gateway and WS4REDIS_EVENTS",
        ),
        (
            {"socketio_channels": ["flask-socketio"]},
            {},
            "without 'socketio', which is WS4REDIS_SOCKETIO_CHANNEL",
        ),
        ({"socketio_channels": []}, {"WS4REDIS_SOCKETIO_CHANNEL": "mine"}, "without 'mine', which is"),
    ],
)
def test_events_and_channels_that_differ_are_errors(store, gateway, other, setting, expected):
    gateway(answer=sound(store, **FEATURES | other))
    with override_settings(**setting):
        text, failed = report()
    assert expected in text
    assert "settings match" not in text
    assert "of what is on match" not in text
    assert failed


def test_events_in_a_channel_are_not_for_the_worker(store, gateway):
    gateway(answer=sound(store, **FEATURES | {"events": "channel:told"}))
    text, failed = report()
    assert "events.to is 'channel:told' in the gateway, which ws4redis_worker cannot read" in text
    assert "all settings match" not in text
    assert not failed


@pytest.mark.parametrize(
    ("other", "expected"),
    [
        ({"cookie": "sid"}, "cookie is 'sid' in the gateway and 'sessionid' in Django"),
        ({"websocket_url": "/live/"}, "websocket_url is '/live/' in the gateway and '/ws/' in Django"),
        ({"heartbeat": ""}, "heartbeat is '' in the gateway and '--heartbeat--' in Django"),
        (
            {"probe": "missing", "keys": ["x:{key}"]},
            "it reads ['x:{key}'], and Django writes to :1:django",
        ),
        ({"probe": "refused"}, "the gateway needs the SECRET_KEY of this site"),
        ({"probe": "unreadable"}, "cannot read the session at :1:django"),
        ({"callback_proof": "0" * 64}, "its auth.callback_secret is not in WS4REDIS_CALLBACK_SECRET"),
    ],
)
def test_each_mismatch_is_reported(store, gateway, other, expected):
    gateway(answer=sound(store, **other))
    text, failed = report()
    assert expected in text
    assert failed


def test_the_secret_is_compared_without_being_sent(store, gateway):
    def answer(query):
        message = f"ws4redis:doctor:{query['doctor']}".encode()
        assert SECRET not in json.dumps(query)
        return sound(store, callback_proof=hmac.new(SECRET.encode(), message, "sha256").hexdigest())(query)

    gateway(answer=answer)
    with override_settings(WS4REDIS_CALLBACK_SECRET=["a new one, just as long", SECRET]):
        text, failed = report()
    assert "all settings match" in text
    assert not failed


OF_RUNSERVER = {"callback": True, "callback_path": "/.ws4redis/identity/", "callback_proof": "0" * 64}
IN_DATABASE = "django.contrib.sessions.backends.db"


@pytest.mark.parametrize("setting", [{}, {"WS4REDIS_CALLBACK_SECRET": SECRET}, {"DEBUG": True}])
def test_a_gateway_of_runserver_needs_no_callback_of_the_site(store, gateway, setting):
    gateway(answer=sound_without_sessions(**OF_RUNSERVER))
    # The apps of the test site have another order.
    setting = setting | {"SESSION_ENGINE": IN_DATABASE, "SILENCED_SYSTEM_CHECKS": ["ws4redis.W020"]}
    with override_settings(**setting):
        text, failed = report()
    assert "are in the database; the gateway of manage.py runserver asks the site" in text
    assert "gateway-1: all settings match" in text
    assert re.findall("^(?:warning|  error) .*", text, re.M) == []
    assert not failed


def test_another_gateway_beside_the_one_of_runserver_needs_a_callback(store, gateway):
    gateway(answer=sound_without_sessions(**OF_RUNSERVER))
    gateway(answer=sound_without_sessions(callback=False, server="gateway-2"))
    with override_settings(SESSION_ENGINE=IN_DATABASE):
        text, failed = report()
    assert re.search("^warning  The gateway cannot identify logged-in users", text, re.M)
    assert "gateway-2: auth.callback_url is not set" in text
    assert "gateway-1: auth.callback" not in text
    assert failed


def test_without_a_gateway_the_sessions_in_the_database_are_named(store):
    with override_settings(SESSION_ENGINE=IN_DATABASE, DEBUG=True):
        text, _ = report()
    assert "manage.py runserver sets auth.callback_url in its gateway, any other needs it" in text
    with override_settings(
        SESSION_ENGINE=IN_DATABASE, WS4REDIS_CONNECTION={"unix_socket_path": "/nonexistent/redis.sock"}
    ):
        text, _ = report()
    assert len(re.findall("^warning  The gateway cannot identify logged-in users", text, re.M)) == 1


@pytest.mark.parametrize(
    ("other", "setting"),
    [
        ({"callback": True, "callback_proof": "0" * 64}, {"DEBUG": False}),
        ({"callback": True, "callback_proof": "0" * 64}, {"DEBUG": True, "WS4REDIS_CALLBACK_SECRET": SECRET}),
        ({"callback": False}, {"DEBUG": True}),
    ],
)
def test_sessions_in_the_database_need_a_callback_with_the_same_secret(store, gateway, other, setting):
    gateway(answer=sound_without_sessions(**other))
    with override_settings(SESSION_ENGINE="django.contrib.sessions.backends.db", **setting):
        text, failed = report()
    assert "auth.callback_" in text
    assert failed


# ---- The handshake ---------------------------------------------------------------------------------------------------


@pytest.fixture
def site():
    """Returns `start(answer)`: starts a server that answers a request with `answer(head)`; returns address and heads."""
    servers = []

    def start(answer):
        listener = socket.create_server(("127.0.0.1", 0))
        heads = []

        def serve():
            connection, _ = listener.accept()
            with connection:
                head = b""
                while b"\r\n\r\n" not in head:
                    head += connection.recv(4096)
                heads.append(head.decode())
                connection.sendall(answer(head.decode()).encode())

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        servers.append((listener, thread))
        return f"127.0.0.1:{listener.getsockname()[1]}", heads

    yield start
    for listener, thread in servers:
        thread.join(DEADLINE_SECONDS)
        listener.close()


def accepted(head):
    key = re.search(r"Sec-WebSocket-Key: (\S+)", head)[1]
    digest = base64.b64encode(hashlib.sha1(f"{key}258EAFA5-E914-47DA-95CA-C5AB0DC85B11".encode()).digest())
    return (
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        f"Sec-WebSocket-Accept: {digest.decode()}\r\n\r\n"
    )


def refusal(status, text):
    return lambda head: f"HTTP/1.1 {status}\r\nContent-Length: {len(text)}\r\nConnection: close\r\n\r\n{text}"


@pytest.mark.parametrize("scheme", ["", "http://"])
def test_a_handshake_has_the_origin_and_a_session_of_the_site(store, gateway, site, scheme):
    gateway(answer=sound(store))
    address, heads = site(accepted)
    text, failed = report(site=f"{scheme}{address}")
    assert f"opens ws://{address}/ws/ws4redis-doctor?subscribe-broadcast, with a session" in text
    assert "all settings match" in text
    assert not failed
    assert f"\r\nOrigin: http://{address}\r\n" in heads[0]
    assert re.search(r"\r\nCookie: sessionid=[a-z0-9]{32}\r\n", heads[0])


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        (
            refusal("403 Forbidden", "the host is a and\nthe origin b\x1b[1m"),
            "the answer is 403: the host is a and the origin b[1m",
        ),
        (refusal("404 Not Found", "<html>"), "the answer is 404: Django or another server answers there"),
        (refusal("200 OK", "<html>"), "the answer is 200: Django or another server answers there"),
        (refusal("503 Service Unavailable", ""), "the answer is 503: the answer has no text"),
        (lambda head: accepted(head).replace("Accept: ", "Accept: x"), "the answer is 101"),
        (lambda head: "", "no answer: "),
        (lambda head: "SSH-2.0\r\n", "no answer: "),
    ],
)
def test_a_handshake_that_fails_is_an_error_beside_which_nothing_fits(store, gateway, site, answer, expected):
    gateway(answer=sound(store))
    address, _ = site(answer)
    text, failed = report(site=address)
    assert failed
    assert f"a page of {address} cannot open ws://{address}/ws/" in text
    assert expected in text
    assert "what it answers matches Django's settings; the errors above remain" in text
    assert "all settings match" not in text


def test_a_facility_that_the_rules_do_not_admit_says_nothing_about_the_site(store, gateway, site):
    gateway(answer=sound(store))
    address, heads = site(refusal("403 Forbidden", "the site's access rules do not allow this"))
    text, failed = report(site=address, facility="news")
    assert not failed
    assert "GET /ws/news?subscribe-broadcast " in heads[0]
    assert "Name a facility that they admit: --facility NAME. Where they admit users only, log in" in text


@pytest.mark.parametrize("address", ["127.0.0.1:1", "ftp://example.com", "http://", "http://[::1"])
def test_a_site_without_an_answer_is_an_error(store, gateway, address):
    gateway(answer=sound(store))
    text, failed = report(site=address)
    assert failed
    assert "all settings match" not in text


def test_a_site_with_https_that_django_does_not_know_of_is_named(store, gateway):
    gateway(answer=sound(store))
    with override_settings(SECURE_PROXY_SSL_HEADER=None):
        assert "SECURE_PROXY_SSL_HEADER is not set" in report(site="https://127.0.0.1:1")[0]
        assert "SECURE_PROXY_SSL_HEADER" not in report(site="http://127.0.0.1:1")[0]
    assert "SECURE_PROXY_SSL_HEADER" not in report(site="https://127.0.0.1:1")[0]


# ---- Facilities ------------------------------------------------------------------------------------------------------


def test_facilities_that_nobody_may_hear_are_named_with_their_place(store, gateway, monkeypatch):
    asked = []

    def answer(query):
        asked.extend(query["facilities"])
        # The gateway may be another one, which was asked for others.
        return sound(store, unreachable=["orders", "never-asked", 5])(query)

    gateway(answer=answer)
    monkeypatch.setattr(
        facilities, "named", lambda: {"orders": "shop/views.py:7 publishes", "chat": "x:1 subscribes"}
    )
    text, failed = report()
    assert asked == ["chat", "orders"]
    assert "let nobody subscribe to the facility 'orders', and shop/views.py:7 publishes there" in text
    assert "never-asked" not in text
    assert "all settings match" not in text
    assert not failed


def test_the_query_is_never_longer_than_gateways_read(store, gateway, monkeypatch):
    lengths = []

    def answer(query):
        lengths.append(len(json.dumps(query, separators=(",", ":"))))
        return sound(store)(query)

    gateway(answer=answer)
    names = {f"facility-{number:04}": "x:1 publishes" for number in range(1000)}
    monkeypatch.setattr(facilities, "named", lambda: names | {"\u00e4" * 5000: "x:1 publishes"})
    text, _ = report()
    assert "all settings match" in text
    assert 4000 < lengths[0] <= 4096


def test_the_facilities_of_the_test_site_are_found():
    found = facilities.named()
    assert set(found) == {"foobar"}, found


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("RedisPublisher(facility='a', broadcast=True)", ["a"]),
        ("publisher.RedisPublisher(facility='a', users=users)", ["a"]),
        ("RedisPublisher(facility='a', **audience)", ["a"]),
        # It only reads.
        ("RedisPublisher(facility='a').fetch_message(None)", []),
        ("RedisPublisher(facility=f'a-{b}', broadcast=True)", []),
        ("RedisPublisher(facility=name, broadcast=True)", []),
        ("publish_html('a', 'b.html', broadcast=True)", ["a"]),
        ("publish_event_on_commit(facility='a', name='b')", ["a"]),
        ("await html.apublish_html('a', 'b.html')", ["a"]),
        ("other('a')", []),
        ("def broken(:", []),
        ("publish_html()\nx()()", []),
    ],
)
def test_only_names_that_are_texts_are_found(source, expected):
    assert [name for name, _ in facilities.published(source)] == expected


def test_the_embedded_store_is_named(store, gateway, monkeypatch):
    gateway(answer=sound(store))
    info = redis.Redis.info
    monkeypatch.setattr(
        redis.Redis, "info", lambda self, *names: info(self, *names) | {"embedded_store": "ws4redis 0.1.0"}
    )
    text, failed = report()
    assert "the embedded store of a gateway answers (ws4redis 0.1.0), no Redis" in text
    assert not failed


def test_no_gateway(store):
    text, failed = report()
    assert "no gateway listens on ws4redis:control" in text
    assert failed


def test_a_gateway_with_another_prefix(store, gateway):
    gateway(prefix="demo:")
    text, failed = report()
    assert "gateways listen with the prefix 'demo'" in text
    assert failed


def test_a_gateway_that_does_not_answer(store, gateway):
    gateway()
    text, failed = report(wait=0.2)
    assert "1 listeners on ws4redis:control, but no answer" in text
    settings = written(text)
    assert settings["session"] == {
        "cookie": "sessionid",
        "keys": ["cache :1:django.contrib.sessions.cache{key}"],
    }
    assert settings["heartbeat"] == "--heartbeat--"
    assert not failed


def test_an_invalid_answer_is_ignored(store, gateway):
    gateway(answer=lambda query: ["nonsense"])
    assert "no answer" in report(wait=0.2)[0]


def test_signed_sessions(store, gateway):
    with override_settings(SESSION_ENGINE="redis_sessions.session"):
        text, _ = report(wait=0.1)
    assert "a session that was just stored is at {key}" in text
    assert written(text)["session"]["keys"] == ["signed {key}"]
    assert '# Or: secret_key_file = "/etc/ws4redis/secret_key"' in text


def test_sessions_that_are_not_in_redis(store, gateway):
    gateway(answer=lambda query: {"v": 1, "callback": False} if "session" not in query else None)
    with override_settings(SESSION_ENGINE="django.contrib.sessions.backends.file"):
        text, failed = report()
        assert "the gateway needs auth.callback_url" in text
        assert "auth.callback_url is not set" in text
        assert failed


def test_passwords_are_not_shown(store):
    url = {"url": "redis://:pass-word@127.0.0.1:1/3"}
    with override_settings(WS4REDIS_CONNECTION=url, WS4REDIS_CALLBACK_SECRET="pass-word and more"):
        text, failed = report()
    assert "It is redis://***@127.0.0.1:1/3" in text
    assert "url" not in written(text).get("redis", {})
    assert "pass-word" not in text
    assert failed


def test_redis_is_gone(store):
    with override_settings(WS4REDIS_CONNECTION={"unix_socket_path": "/nonexistent/redis.sock"}):
        text, failed = report()
    assert "Redis is unreachable with WS4REDIS_CONNECTION" in text
    assert failed


def test_a_connection_of_a_wrong_type_is_a_finding(store):
    with override_settings(WS4REDIS_CONNECTION="redis://localhost"):
        text, failed = report()
    assert "WS4REDIS_CONNECTION is a str; it must be a dict" in text
    assert "Redis is unreachable with WS4REDIS_CONNECTION" in text
    assert failed


def test_a_source_of_the_site_is_read_without_warnings(recwarn):
    source = (
        "import re\nfrom ws4redis import publish\nre.compile('\\d')\npublish('chat', 'x', broadcast=True)\n"
    )
    list(facilities.published(source))
    assert not recwarn.list
