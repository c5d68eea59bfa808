"""`manage.py ws4redis_doctor` reports exactly the mismatches between the site and a running gateway."""

import contextlib
import http.server
import threading

import pytest

from harness import Gateway, RedisServer
from test_callback import AnonymousSite
from deployments import SECRET_KEY, SiteKind, manage

FITS = "the settings of what is on match"
SECRET = "what-gateway-and-site-share"
GATEWAY = {
    "prefix": "demo",
    "heartbeat": "--heartbeat--",
    "session__keys": "cache :1:django.contrib.sessions.cache{key}, signed {key}",
    "session__secret_key": SECRET_KEY,
    "auth__callback_secret": SECRET,
}
SITE = {
    "sessions": "cache",
    "prefix": "demo",
    "heartbeat": "--heartbeat--",
    "secret_key": SECRET_KEY,
    "callback_secret": SECRET,
}
SIGNED = {"sessions": "redis_sessions"}


@contextlib.contextmanager
def running(server, *arguments, **options):
    process = server(*arguments, **options)
    try:
        yield process
    finally:
        process.stop()


@contextlib.contextmanager
def callback():
    """Serves an identity callback that reports every visitor as anonymous; yields its URL."""
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), AnonymousSite)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


# The parameter names it, so that all its tests run on one worker.
@pytest.fixture(scope="module", params=["doctor"])
def redis():
    with (
        callback() as url,
        running(RedisServer) as redis,
        running(Gateway, redis__url=redis.url, auth__callback_url=url, **GATEWAY),
    ):
        yield redis


@pytest.fixture(scope="module")
def doctor(database):
    """Returns a function that runs the doctor; it returns the exit code, the error texts and the whole report."""
    path = database(SiteKind("doctor"))

    def doctor(redis, **site):
        code, report = manage("ws4redis_doctor", redis=f"{redis.url}/0", database=path, **SITE | site)
        found = [line.split(maxsplit=1) for line in report.splitlines() if line.strip()]
        return code, [words[1] for words in found if words[0] == "error"], report

    return doctor


@pytest.mark.parametrize(
    "site", [{}, SIGNED, {"sessions": "db"}], ids=["in a cache", "signed", "behind the callback"]
)
def test_matching_settings_are_reported_as_such(doctor, redis, site):
    code, errors, report = doctor(redis, **site)
    assert (code, errors) == (0, []), report
    assert "off there: Socket.IO" in report
    assert FITS in report


@pytest.mark.parametrize(
    ("site", "expected"),
    [
        (
            {"prefix": "other"},
            ["no gateway listens on other:ws4redis:control", "gateways listen with the prefix 'demo'"],
        ),
        (
            {"prefix": ""},
            ["no gateway listens on ws4redis:control", "gateways listen with the prefix 'demo'"],
        ),
        (
            {"sessions": "cached_db"},
            [
                "found no session; it reads [':1:django.contrib.sessions.cache{key}', '{key}'], "
                "and Django writes to :1:django.contrib.sessions.cached_db{key}"
            ],
        ),
        (SIGNED | {"session_prefix": "logins"}, ["and Django writes to logins:{key}"]),
        (
            SIGNED | {"secret_key": "another one"},
            ["the signature of the session is invalid there; the gateway needs the SECRET_KEY of this site"],
        ),
        ({"cookie_name": "sid"}, ["cookie is 'sessionid' in the gateway and 'sid' in Django"]),
        ({"heartbeat": ""}, ["heartbeat is '--heartbeat--' in the gateway and '' in Django"]),
        (
            {"callback_secret": "another one, as long as that"},
            ["its auth.callback_secret is not in WS4REDIS_CALLBACK_SECRET"],
        ),
    ],
    ids=[
        "prefix",
        "no prefix",
        "session engine",
        "key of sessions",
        "secret key",
        "cookie",
        "heartbeat",
        "secret of the callback",
    ],
)
def test_exactly_the_mismatches_are_reported(doctor, redis, site, expected):
    code, errors, report = doctor(redis, **site)
    assert code == 1, report
    assert len(errors) == len(expected), report
    for error, words in zip(errors, expected):
        assert words in error
    assert FITS not in report and "all settings match" not in report
    assert SECRET not in report
    assert SECRET_KEY not in report


def test_each_gateway_is_compared(doctor, redis):
    other = GATEWAY | {"session__cookie": "sid", "auth__callback_secret": ""}
    with running(Gateway, redis__url=redis.url, **other):
        code, errors, report = doctor(redis)
        assert code == 1, report
        assert len(errors) == 1
        assert "cookie is 'sid' in the gateway and 'sessionid' in Django" in errors[0]
        assert "2 of 2 listeners on demo:ws4redis:control answered" in report
        # Nothing is said to match behind an error, and either of them may answer first.
        assert report.count(FITS) + report.count("matches Django's settings; the errors above remain") == 1
        code, errors, report = doctor(redis, sessions="db")
        assert code == 1, report
        assert any("auth.callback_url is not set" in error for error in errors)


def test_a_gateway_that_does_not_run_is_reported(doctor):
    with running(RedisServer) as redis:
        code, errors, report = doctor(redis)
    assert code == 1, report
    assert len(errors) == 1
    assert "no gateway listens on demo:ws4redis:control of this Redis; it is not running" in errors[0]


def test_a_redis_that_does_not_run_is_reported(doctor):
    with running(RedisServer) as redis:
        pass
    code, errors, report = doctor(redis)
    assert code == 1, report
    assert len(errors) == 1
    assert "Redis is unreachable with WS4REDIS_CONNECTION" in errors[0]
