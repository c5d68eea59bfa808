"""System checks: one mistake at a time."""

import pytest
from django.contrib.sessions.middleware import SessionMiddleware
from django.core import checks
from django.test import override_settings

from ws4redis.middleware_checks import MIDDLEWARE

DB = "django.contrib.sessions.backends.db"
SIGNED = "django.contrib.sessions.backends.signed_cookies"
DJANGO_SESSIONS = "django.contrib.sessions.middleware.SessionMiddleware"
DJANGO_USERS = "django.contrib.auth.middleware.AuthenticationMiddleware"
LOCMEM = {"default": {"BACKEND": "django.core.cache.backends.locmem.LocMemCache"}}


@pytest.fixture(autouse=True)
def broken_middleware(tmp_path, monkeypatch):
    (tmp_path / "broken_middleware.py").write_text("raise RuntimeError('broken')")
    monkeypatch.syspath_prepend(str(tmp_path))


class OwnSessions(SessionMiddleware):
    """The middleware of a site."""


OWN_SESSIONS = f"{__name__}.OwnSessions"


def found(deploy=False, **settings):
    """Returns the identifiers of the checks' findings with these settings."""
    with override_settings(**settings):
        return [
            m.id.removeprefix("ws4redis.")
            for m in checks.run_checks(tags=["ws4redis"], include_deployment_checks=deploy)
            if not m.is_silenced()
        ]


def test_the_test_site_has_no_findings():
    assert found() == []
    assert found(deploy=True) == []


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"WEBSOCKET_URL": "ws/"}, ["E001"]),
        ({"WEBSOCKET_URL": "/ws"}, ["E001"]),
        ({"WEBSOCKET_URL": None}, ["E001"]),
        ({"WS4REDIS_CONNECTION": "redis://localhost"}, ["E002"]),
        ({"WS4REDIS_CONNECTION": {"host": "a", "unix_socket_path": "b"}}, ["W002"]),
        ({"WS4REDIS_EXPIRE": "3600"}, ["E003"]),
        ({"WS4REDIS_EXPIRE": True}, ["E003"]),
        ({"WS4REDIS_EXPIRE": None}, []),
        ({"WS4REDIS_EXPIRE": False}, []),
        ({"WS4REDIS_HEARTBEAT": b"--heartbeat--"}, ["E004"]),
        ({"WS4REDIS_HEARTBEAT": None}, []),
        ({"WS4REDIS_HEARTBEAT": 1}, []),
        ({"WS4REDIS_HEARTBEAT": True}, ["E004"]),
        ({"WS4REDIS_PREFIX": 5}, ["E005"]),
        ({"WS4REDIS_PREFIX": "demo:"}, ["W003"]),
        ({"WS4REDIS_SOCKETIO_CHANNEL": ""}, ["E015"]),
        ({"WS4REDIS_SOCKETIO_CHANNEL": b"socketio"}, ["E015"]),
        ({"WS4REDIS_SOCKETIO_CHANNEL": "project"}, []),
        ({"WS4REDIS_EVENTS": "list:events"}, []),
        ({"WS4REDIS_EVENTS": "channel:ws4redis:events"}, ["E016"]),
        ({"WS4REDIS_EVENTS": "ws4redis:events"}, ["E016"]),
        ({"WS4REDIS_EVENTS": None}, ["E016"]),
        ({"WS4REDIS_SUBSCRIBER": "myapp.redis_store.RedisSubscriber"}, ["W004"]),
        ({"WS4REDIS_SUBSCRIBER": "ws4redis.subscriber.RedisSubscriber"}, []),
        ({"SESSION_REDIS_PREFIX": "session"}, ["W004"]),
        ({"WS4REDIS_GROUPS": "no.such.function"}, ["E006"]),
        ({"WS4REDIS_GROUPS": 5}, ["E006"]),
        ({"WS4REDIS_GROUPS": "ws4redis.identity.group_names"}, []),
        ({"WS4REDIS_IDENTITY_SECONDS": "5"}, ["E007"]),
        ({"WS4REDIS_IDENTITY_SECONDS": 5}, ["W005"]),
        ({"SESSION_ENGINE": DB}, ["W006"]),
        ({"SESSION_ENGINE": SIGNED}, ["W006"]),
        # runserver identifies its users; the doctor names gateways that cannot.
        ({"SESSION_ENGINE": DB, "DEBUG": True, "SILENCED_SYSTEM_CHECKS": ["ws4redis.W020"]}, []),
        ({"CACHES": LOCMEM}, ["W006"]),
        ({"SESSION_CACHE_ALIAS": "none"}, ["W006"]),
        ({"SESSION_ENGINE": DB, "WS4REDIS_CALLBACK_SECRET": "x" * 16}, []),
        ({"SESSION_ENGINE": "redis_sessions.session"}, []),
        ({"WS4REDIS_CALLBACK_SECRET": 5}, ["E008"]),
        ({"WS4REDIS_CALLBACK_SECRET": ["x" * 16, None]}, ["E008"]),
        ({"WS4REDIS_CALLBACK_SECRET": "short"}, ["W007"]),
        ({"WS4REDIS_CALLBACK_SECONDS": 0}, ["E009"]),
        ({"MIDDLEWARE": [DJANGO_SESSIONS, DJANGO_USERS]}, ["W008"]),
        ({"MIDDLEWARE": [MIDDLEWARE, DJANGO_SESSIONS, DJANGO_USERS]}, ["E012"]),
        ({"MIDDLEWARE": [DJANGO_SESSIONS, MIDDLEWARE, DJANGO_USERS]}, ["E012"]),
        ({"MIDDLEWARE": [OWN_SESSIONS, DJANGO_USERS, MIDDLEWARE]}, []),
        ({"MIDDLEWARE": [MIDDLEWARE, OWN_SESSIONS, DJANGO_USERS]}, ["E012"]),
        ({"MIDDLEWARE": [DJANGO_USERS, DJANGO_SESSIONS, MIDDLEWARE]}, ["E022"]),
        ({"MIDDLEWARE": [DJANGO_USERS, DJANGO_SESSIONS]}, ["E022", "W008"]),
        ({"MIDDLEWARE": [DJANGO_SESSIONS, MIDDLEWARE]}, ["W016"]),
        ({"MIDDLEWARE": [MIDDLEWARE]}, ["W016"]),
        ({"MIDDLEWARE": ["no.such.Middleware"]}, []),
        # It may raise anything, and Django names it when it serves.
        ({"MIDDLEWARE": ["broken_middleware.Middleware", DJANGO_SESSIONS, DJANGO_USERS, MIDDLEWARE]}, []),
        # A site without sessions.
        ({"MIDDLEWARE": []}, []),
    ],
)
def test_each_mistake_is_reported(settings, expected):
    assert found(**settings) == expected


def test_missing_settings_are_reported():
    with override_settings():
        from django.conf import settings

        del settings.WEBSOCKET_URL
        del settings.WS4REDIS_CONNECTION
        assert found() == ["W001"]
        assert found(deploy=True) == ["W001", "W009"]


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"SESSION_COOKIE_SECURE": True}, ["W015"]),
        ({"CSRF_COOKIE_SECURE": True}, ["W015"]),
        ({"CSRF_TRUSTED_ORIGINS": ["https://www.example.com"]}, ["W015"]),
        ({"CSRF_TRUSTED_ORIGINS": ["http://www.example.com"]}, []),
        ({}, []),
        # Django knows of https: it would redirect without end otherwise.
        ({"SESSION_COOKIE_SECURE": True, "SECURE_SSL_REDIRECT": True}, []),
        ({"SESSION_COOKIE_SECURE": True, "SECURE_PROXY_SSL_HEADER": ("HTTP_X_FORWARDED_PROTO", "https")}, []),
        # No page of the site uses the variable.
        ({"SESSION_COOKIE_SECURE": True, "TEMPLATES": []}, []),
    ],
)
def test_https_that_django_does_not_know_of_is_reported_before_a_deployment(settings, expected):
    settings = {"SECURE_PROXY_SSL_HEADER": None} | settings
    assert found(deploy=True, **settings) == expected
    assert found(**settings) == []


def test_secrets_are_never_shown():
    with override_settings(WS4REDIS_CALLBACK_SECRET={"my-secret": 1}):
        assert "my-secret" not in str(checks.run_checks(tags=["ws4redis"]))
