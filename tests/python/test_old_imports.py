"""Each import of django-websocket-redis exists: what a Django process needs works, the loops are stubs."""

import ast
import importlib
import logging
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from django.contrib.auth.models import AnonymousUser
from django.contrib.sessions.backends.cache import SessionStore
from django.test import RequestFactory, override_settings
from stores import DEADLINE_SECONDS

from ws4redis import connection, exceptions, settings, uwsgi_runserver, websocket
from ws4redis._compat import is_authenticated
from ws4redis.redis_store import RedisMessage, RedisStore
from ws4redis.subscriber import RedisSubscriber
from ws4redis.utf8validator import Utf8Validator
from ws4redis.wsgi_server import WebsocketWSGIServer

UPSTREAM = os.environ.get("WS4REDIS_UPSTREAM_PYTHON")
# Imported by the modules of django-websocket-redis themselves, not by sites.
NOT_API = {"logger", "xrange"}


def upstream_folder():
    """Returns the folder of django-websocket-redis."""
    code = "import importlib.util as u; print(u.find_spec('ws4redis').submodule_search_locations[0])"
    done = subprocess.run([UPSTREAM, "-c", code], capture_output=True, text=True, check=True, env={})
    return Path(done.stdout.strip())


@pytest.mark.skipif(UPSTREAM is None, reason="WS4REDIS_UPSTREAM_PYTHON is not set; see tests/run-python")
def test_each_public_name_of_the_old_package_exists_here():
    compared = 0
    for file in sorted(upstream_folder().glob("*.py")):
        module = importlib.import_module(f"ws4redis.{file.stem}" if file.stem != "__init__" else "ws4redis")
        for node in ast.parse(file.read_text()).body:
            targets = getattr(node, "targets", [])
            names = [getattr(node, "name", None)] if isinstance(node, (ast.ClassDef, ast.FunctionDef)) else []
            names += [target.id for target in targets if isinstance(target, ast.Name)]
            for name in names:
                if name in NOT_API or (name.startswith("_") and name != "__version__"):
                    continue
                assert hasattr(module, name), f"{module.__name__}.{name}"
                compared += 1
                if isinstance(node, ast.ClassDef) and file.stem in ("subscriber", "publisher", "redis_store"):
                    for part in node.body:
                        own = [getattr(part, "name", None), *(t.id for t in getattr(part, "targets", []))]
                        for attribute in filter(None, own):
                            assert hasattr(getattr(module, name), attribute), f"{name}.{attribute}"
    assert compared > 30


def test_the_settings_of_the_loop_have_the_defaults_of_upstream():
    assert settings.WS4REDIS_SUBSCRIBER == "ws4redis.subscriber.RedisSubscriber"
    assert settings.WS4REDIS_ALLOWED_CHANNELS is None
    assert settings.WS4REDIS_PROCESS_REQUEST is None
    with override_settings(WS4REDIS_SUBSCRIBER="a.b"):
        assert settings.WS4REDIS_SUBSCRIBER == "a.b"


# ---- The subscriber --------------------------------------------------------------------------------------------------


def request_of(username, session_key="k", url="/ws/foobar"):
    request = RequestFactory().get(url)
    request.user = SimpleNamespace(is_authenticated=True, get_username=lambda: username)
    request.session = type("Session", (dict,), {"session_key": session_key})({"ws4redis:memberof": ["g"]})
    return request


@pytest.fixture
def subscriber(store):
    with pytest.warns(DeprecationWarning, match="the gateway subscribes for browsers") as warned:
        made = RedisSubscriber(connection.client())
    assert warned[0].filename == __file__, "the warning names the caller"
    yield made
    made.release()


def test_a_subscriber_is_a_store_with_lists_of_flags(subscriber):
    assert isinstance(subscriber, RedisStore)
    assert sorted(RedisSubscriber.subscription_channels) == [
        "subscribe-broadcast",
        "subscribe-group",
        "subscribe-session",
        "subscribe-user",
    ]
    assert len(RedisSubscriber.publish_channels) == 4
    assert subscriber.get_file_descriptor() is None


def test_a_subscriber_hears_and_publishes_by_its_flags(subscriber, store):
    store.set("user:john:foobar", "kept")
    flags = ["subscribe-user", "subscribe-group", "subscribe-session", "publish-broadcast"]
    subscriber.set_pubsub_channels(request_of("john"), flags)
    assert sorted(subscriber._publishers) == ["broadcast:foobar"]
    confirmed = sorted(subscriber.parse_response()[1] for _ in range(3))
    assert confirmed == [b"group:g:foobar", b"session:k:foobar", b"user:john:foobar"]
    sent = []
    subscriber.send_persited_messages(SimpleNamespace(send=sent.append))
    assert sent == [b"kept"]
    assert isinstance(subscriber.get_file_descriptor(), int)
    store.publish("group:g:foobar", "live")
    assert RedisMessage(subscriber.parse_response()) == b"live"
    assert subscriber.publish_message("x") == 0
    assert store.get("broadcast:foobar") == b"x"


def test_a_subclass_of_a_site_is_imported_without_a_warning():
    class Custom(RedisSubscriber):
        subscription_channels = RedisSubscriber.subscription_channels + ["subscribe-team"]

    assert Custom.subscription_channels[-1] == "subscribe-team"


# ---- The loops -------------------------------------------------------------------------------------------------------


def call(application, path="/ws/foobar"):
    """Returns the status and the text with which a WSGI application answers."""
    answered = []
    environ = RequestFactory().get(path).environ
    body = b"".join(application(environ, lambda status, headers: answered.append((status, headers))))
    return answered[0][0], body.decode()


@pytest.mark.parametrize("kind", [WebsocketWSGIServer, uwsgi_runserver.uWSGIWebsocketServer])
def test_a_loop_answers_with_the_cure_and_logs_it_once(kind, caplog):
    application = kind()
    with caplog.at_level(logging.ERROR, "ws4redis"):
        for _ in range(2):
            status, text = call(application)
            assert status == "501 Not Implemented"
            assert "the ws4redis gateway serves them" in text
    assert len(caplog.records) == 1
    assert application.websockets == set()
    with pytest.raises(exceptions.HandshakeError, match="gateway"):
        application.upgrade_websocket({}, None)
    with pytest.raises(exceptions.WebSocketError, match="gateway"):
        application.select([], [], [], 4.0)


def test_the_runserver_application_still_serves_the_site(people):
    from ws4redis import django_runserver

    assert call(django_runserver.application)[0] == "501 Not Implemented"
    assert call(django_runserver.application, "/no/such/page/")[0] == "404 Not Found"


def test_helpers_of_a_loop_work_in_a_django_process(people):
    loop = WebsocketWSGIServer()
    request = RequestFactory().get("/ws/x?Subscribe-User&publish-broadcast=1&echo&other")
    assert loop.process_subscriptions(request) == (["subscribe-user", "publish-broadcast"], True)
    loop.process_request(request)
    assert (request.session, request.user) == (None, None)
    request.COOKIES["sessionid"] = "x" * 32
    loop.process_request(request)
    assert isinstance(request.session, SessionStore)
    assert request.user == AnonymousUser()
    with pytest.raises(exceptions.HandshakeError, match="GET"):
        loop.assure_protocol_requirements({"REQUEST_METHOD": "POST"})


def test_websockets_of_a_django_process_are_refused_with_the_cure():
    for kind in (websocket.WebSocket, websocket.Stream, websocket.Header):
        with pytest.raises(exceptions.WebSocketError, match="publish with RedisPublisher"):
            kind(None)
    with pytest.raises(OSError, match="publish with RedisPublisher"):
        uwsgi_runserver.uWSGIWebsocket()
    assert issubclass(exceptions.FrameTooLargeException, exceptions.WebSocketError)
    assert issubclass(exceptions.UpgradeRequiredError, exceptions.HandshakeError)


def test_is_authenticated_takes_requests_without_a_user():
    assert not is_authenticated(None)
    assert not is_authenticated(RequestFactory().get("/"))
    assert is_authenticated(request_of("john"))


@pytest.mark.parametrize(
    ("parts", "expected"),
    [
        ([b"Hello"], (True, True, 5, 5)),
        ([b"Gr\xc3"], (True, False, 3, 3)),
        ([b"Gr\xc3", b"\xbc"], (True, True, 1, 4)),
        ([b"Gr\xc3", b"\xbc\xff"], (False, False, 1, 4)),
        ([b"a\xff"], (False, False, 1, 1)),
    ],
)
def test_utf8_is_validated_in_parts(parts, expected):
    validator = Utf8Validator()
    for part in parts:
        result = validator.validate(part)
    assert result == expected
    validator.reset()
    assert validator.validate(b"")[:2] == (True, True)


def test_importing_the_old_modules_needs_no_uwsgi_and_warns_of_nothing():
    code = (
        "import warnings; warnings.simplefilter('error')\n"
        "from django.conf import settings; settings.configure(SECRET_KEY='x', ROOT_URLCONF='x')\n"
        "import ws4redis.uwsgi_runserver, ws4redis.django_runserver, ws4redis.websocket, ws4redis.subscriber\n"
        "import ws4redis.utf8validator, ws4redis._compat, ws4redis.exceptions, ws4redis.wsgi_server\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=DEADLINE_SECONDS, check=False
    )
    assert done.returncode == 0, done.stderr
