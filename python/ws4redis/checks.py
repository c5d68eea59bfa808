"""System checks: `manage.py check` names the usual mistakes."""

from __future__ import annotations

from collections.abc import Iterator
from importlib import metadata
from typing import Any

from django.conf import settings as django_settings
from django.core import checks
from django.utils.module_loading import import_string

from ws4redis import connection as redis_connection
from ws4redis import session_engine, settings

TAG = "ws4redis"
MIDDLEWARE = "ws4redis.middleware.SessionMiddleware"
BEFORE_MIDDLEWARE = (
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
)
# Upstream's settings that nothing reads any more, with what takes their place.
WITHOUT_EFFECT = {
    "WS4REDIS_SUBSCRIBER": "the gateway has no Python in it; its rules are [[access]] in settings.toml",
    "WS4REDIS_ALLOWED_CHANNELS": "write [[access]] rules in the gateway's settings.toml, or override "
    "ws4redis.views.IdentityView.allow",
    "WS4REDIS_PROCESS_REQUEST": "override ws4redis.views.IdentityView.identify, and set auth.callback_url in the "
    "gateway's settings.toml",
    # Of the documentation of django-websocket-redis; django-redis-sessions has never read it.
    "SESSION_REDIS_PREFIX": "django-redis-sessions wants SESSION_REDIS = {'prefix': …}",
}
MIN_SECRET_CHARS = 16
_MISSING = object()


def register() -> None:
    """Registers the checks with Django."""
    for check in (check_settings, check_sessions, check_callback, check_installation):
        checks.register(check, TAG)
    checks.register(check_deployment, TAG, deploy=True)


def check_settings(app_configs: Any, **kwargs: Any) -> list[checks.CheckMessage]:
    """Types and forms of the settings."""
    return list(_settings())


def _settings() -> Iterator[checks.CheckMessage]:
    url = getattr(django_settings, "WEBSOCKET_URL", _MISSING)
    if url is _MISSING:
        yield checks.Warning(
            "WEBSOCKET_URL is not set; /ws/ is used.",
            hint="WEBSOCKET_URL = '/ws/', as websocket_url of the gateway.",
            id="ws4redis.W001",
        )
    elif not isinstance(url, str) or not (url.startswith("/") and url.endswith("/")):
        yield _error("E001", "WEBSOCKET_URL must be a text that begins and ends with a slash.", url)
    connection = settings.WS4REDIS_CONNECTION
    if not isinstance(connection, dict):
        yield _error(
            "E002",
            "WS4REDIS_CONNECTION must be a dict of redis-py's arguments.",
            type(connection),
            "For example {'host': 'localhost', 'port': 6379} or {'url': 'redis://localhost:6379/0'}.",
        )
    elif "unix_socket_path" in connection and "host" in connection:
        yield checks.Warning(
            "WS4REDIS_CONNECTION has unix_socket_path and host; host is not used.", id="ws4redis.W002"
        )
    elif (problem := redis_connection.problem()) is not None:
        # Never the value itself: there may be a password in it.
        yield checks.Error(f"WS4REDIS_CONNECTION cannot be used: {problem}.", id="ws4redis.E013")
    expire = settings.WS4REDIS_EXPIRE
    if expire is not None and (isinstance(expire, bool) or not isinstance(expire, int)):
        yield _error("E003", "WS4REDIS_EXPIRE must be an int (seconds) or None.", expire)
    heartbeat = settings.WS4REDIS_HEARTBEAT
    if heartbeat is not None and not isinstance(heartbeat, str):
        yield _error("E004", "WS4REDIS_HEARTBEAT must be a text or None.", heartbeat)
    prefix = settings.WS4REDIS_PREFIX
    if prefix is not None and not isinstance(prefix, str):
        yield _error("E005", "WS4REDIS_PREFIX must be a text or None.", prefix)
    elif prefix and prefix.endswith(":"):
        yield checks.Warning(
            f"WS4REDIS_PREFIX {prefix!r} ends with a colon, and gets another one: {prefix}:broadcast:…",
            id="ws4redis.W003",
        )
    yield from _functions_and_numbers()
    for name, successor in WITHOUT_EFFECT.items():
        if getattr(django_settings, name, None) is not None:
            yield checks.Warning(f"{name} has no effect: {successor}.", id="ws4redis.W004")


def _function(name: str, number: str, what: str) -> Iterator[checks.CheckMessage]:
    function = getattr(settings, name)
    if isinstance(function, str):
        try:
            function = import_string(function)
        except ImportError as error:
            yield checks.Error(f"{name} cannot be imported: {error}", id=f"ws4redis.{number}")
            return
    if function is not None and not callable(function):
        yield _error(number, f"{name} must be a function {what}, or its dotted path.", function)


def _functions_and_numbers() -> Iterator[checks.CheckMessage]:
    yield from _function("WS4REDIS_GROUPS", "E006", "of a user")
    yield from _function("WS4REDIS_IDENTITY_NAMESPACE", "E014", "without arguments")
    seconds = settings.WS4REDIS_IDENTITY_SECONDS
    if seconds is not None and (isinstance(seconds, bool) or not isinstance(seconds, int)):
        yield _error("E007", "WS4REDIS_IDENTITY_SECONDS must be an int or None.", seconds)
    elif seconds is not None and seconds < django_settings.SESSION_COOKIE_AGE:
        yield checks.Warning(
            "WS4REDIS_IDENTITY_SECONDS is less than SESSION_COOKIE_AGE, which is used instead.",
            hint="A user's key has to outlive the sessions that it overrules.",
            id="ws4redis.W005",
        )


def check_sessions(app_configs: Any, **kwargs: Any) -> list[checks.CheckMessage]:
    """Whether the gateway can read the sessions."""
    engine = session_engine.describe()
    if engine.obstacle is None or settings.WS4REDIS_CALLBACK_SECRET:
        return []
    return [
        checks.Warning(
            f"The gateway cannot tell who is logged in: {engine.obstacle}.",
            hint="Set SESSION_ENGINE = 'django.contrib.sessions.backends.cache' with a cache in Redis; or set "
            "WS4REDIS_CALLBACK_SECRET, include ws4redis.urls, and set auth.callback_url in the gateway's settings.toml.",
            id="ws4redis.W006",
        )
    ]


def check_callback(app_configs: Any, **kwargs: Any) -> list[checks.CheckMessage]:
    """The secret of the callback view, and its interval."""
    found: list[checks.CheckMessage] = []
    secrets = settings.WS4REDIS_CALLBACK_SECRET
    if secrets is not None:
        several = [secrets] if isinstance(secrets, str) else secrets
        if not isinstance(several, (list, tuple)) or not all(isinstance(one, str) for one in several):
            # Never the value itself.
            found.append(
                checks.Error(
                    "WS4REDIS_CALLBACK_SECRET must be a text or a list of texts.", id="ws4redis.E008"
                )
            )
        elif any(len(one) < MIN_SECRET_CHARS for one in several):
            found.append(
                checks.Warning(
                    f"WS4REDIS_CALLBACK_SECRET is shorter than {MIN_SECRET_CHARS} characters.",
                    hint="python -c 'import secrets; print(secrets.token_urlsafe())' makes one.",
                    id="ws4redis.W007",
                )
            )
    seconds = settings.WS4REDIS_CALLBACK_SECONDS
    if isinstance(seconds, bool) or not isinstance(seconds, int) or seconds < 1:
        found.append(_error("E009", "WS4REDIS_CALLBACK_SECONDS must be an int of at least 1.", seconds))
    return found


def check_installation(app_configs: Any, **kwargs: Any) -> list[checks.CheckMessage]:
    """Leftovers of django-websocket-redis, and the place of the middleware."""
    found: list[checks.CheckMessage] = []
    application = getattr(django_settings, "WSGI_APPLICATION", None)
    if isinstance(application, str) and application.startswith("ws4redis."):
        found.append(
            checks.Error(
                f"WSGI_APPLICATION is {application!r}, which was the server loop of django-websocket-redis.",
                hint="Put back the site's own, for example 'mysite.wsgi.application'; the gateway is a process of its own.",
                id="ws4redis.E010",
            )
        )
    if _is_installed("django-websocket-redis"):
        found.append(
            checks.Error(
                "django-websocket-redis is installed, too; both packages are the directory ws4redis.",
                hint="pip uninstall django-websocket-redis, then install this package again.",
                id="ws4redis.E011",
            )
        )
    middleware = list(django_settings.MIDDLEWARE)
    if MIDDLEWARE not in middleware:
        found.append(
            checks.Warning(
                f"{MIDDLEWARE} is not in MIDDLEWARE: logins from before this package was installed stay nameless, "
                "fields of long sessions get old, and sessions that end otherwise than by a logout may be noticed late.",
                hint="Put it behind django.contrib.auth.middleware.AuthenticationMiddleware.",
                id="ws4redis.W008",
            )
        )
        return found
    behind = middleware[middleware.index(MIDDLEWARE) :]
    late = [name for name in BEFORE_MIDDLEWARE if name in behind]
    if late:
        found.append(
            checks.Error(f"{MIDDLEWARE} must stand behind {' and '.join(late)}.", id="ws4redis.E012")
        )
    return found


def check_deployment(app_configs: Any, **kwargs: Any) -> list[checks.CheckMessage]:
    """What is all right on a developer's machine only."""
    if hasattr(django_settings, "WS4REDIS_CONNECTION"):
        return []
    return [
        checks.Warning(
            "WS4REDIS_CONNECTION is not set; the Redis on localhost:6379 is used.", id="ws4redis.W009"
        )
    ]


def _error(number: str, text: str, value: Any, hint: str | None = None) -> checks.Error:
    return checks.Error(f"{text} It is {value!r}.", hint=hint, id=f"ws4redis.{number}")


def _is_installed(distribution: str) -> bool:
    try:
        metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return False
    return True
