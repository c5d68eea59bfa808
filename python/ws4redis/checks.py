"""System checks: `manage.py check` reports common mistakes in the settings."""

from __future__ import annotations

from typing import TYPE_CHECKING

from django.conf import settings as django_settings
from django.core import checks
from django.utils.module_loading import import_string

from ws4redis import connection as redis_connection
from ws4redis import history, leftovers, middleware_checks, pages, session_engine, settings
from ws4redis.events import EventsKey

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from django.apps import AppConfig

TAG = "ws4redis"
# Settings that this package ignores, and their replacements.
WITHOUT_EFFECT = {
    "WS4REDIS_SUBSCRIBER": 'The gateway runs no Python. "Custom subscribers" in docs/django.md has what replaces each kind.',
    # The documentation of django-websocket-redis names this setting; django-redis-sessions has never read it.
    "SESSION_REDIS_PREFIX": "Set SESSION_REDIS = {'prefix': …}, which django-redis-sessions reads.",
}
MIN_SECRET_CHARS = 16
_MISSING = object()


def register() -> None:
    """Register the checks with Django."""
    for check in (
        check_settings,
        check_sessions,
        check_callback,
        middleware_checks.check_middleware,
        leftovers.check_rules,
        leftovers.check_old_package,
        pages.check_pages,
    ):
        checks.register(check, TAG)
    for check in (check_deployment, pages.check_scheme):
        checks.register(check, TAG, deploy=True)


# Django passes further keyword arguments to checks, and refuses checks without **kwargs.


def check_settings(app_configs: Sequence[AppConfig] | None, **kwargs: object) -> list[checks.CheckMessage]:
    """Return the settings that have a wrong type or form, or no effect."""
    return list(_check_settings())


def _check_settings() -> Iterator[checks.CheckMessage]:
    url = getattr(django_settings, "WEBSOCKET_URL", _MISSING)
    if url is _MISSING:
        yield checks.Warning(
            "WEBSOCKET_URL is not set; /ws/ is used.",
            hint="Set WEBSOCKET_URL = '/ws/', or the gateway's websocket_url.",
            id="ws4redis.W001",
        )
    elif not isinstance(url, str) or not (url.startswith("/") and url.endswith("/")):
        yield _wrong_value("E001", "WEBSOCKET_URL", url, "a string that begins and ends with a slash")
    connection = settings.WS4REDIS_CONNECTION
    if not isinstance(connection, dict):
        # Only the type: a URL may contain a password.
        yield checks.Error(
            f"WS4REDIS_CONNECTION is a {type(connection).__name__}; it must be a dict of redis-py arguments.",
            hint="For example {'host': 'localhost', 'port': 6379} or {'url': 'redis://localhost:6379/0'}.",
            id="ws4redis.E002",
        )
    elif "unix_socket_path" in connection and "host" in connection:
        yield checks.Warning(
            "WS4REDIS_CONNECTION has unix_socket_path and host; host is ignored.",
            hint="Remove one of them.",
            id="ws4redis.W002",
        )
    elif (problem := redis_connection.problem()) is not None:
        yield checks.Error(f"WS4REDIS_CONNECTION is unusable: {problem}.", id="ws4redis.E013")
    expire = settings.WS4REDIS_EXPIRE
    if expire is not None and expire is not False and not _is_int(expire):
        yield _wrong_value("E003", "WS4REDIS_EXPIRE", expire, "an int (seconds) or None")
    heartbeat = settings.WS4REDIS_HEARTBEAT
    if heartbeat and not isinstance(heartbeat, str) and not _is_int(heartbeat):
        yield _wrong_value("E004", "WS4REDIS_HEARTBEAT", heartbeat, "a string or None")
    prefix = settings.WS4REDIS_PREFIX
    if prefix is not None and not isinstance(prefix, str):
        yield _wrong_value("E005", "WS4REDIS_PREFIX", prefix, "a string or None")
    elif prefix and prefix.endswith(":"):
        yield checks.Warning(
            f"WS4REDIS_PREFIX {prefix!r} ends with a colon; channels begin with {prefix}:broadcast.",
            hint="Remove the colon; the package adds one.",
            id="ws4redis.W003",
        )
    elif f":{prefix or ''}".endswith((":ws4redis:history", ":ws4redis:live")):
        yield _wrong_value("E018", "WS4REDIS_PREFIX", prefix, "another one: this names histories")
    channel = settings.WS4REDIS_SOCKETIO_CHANNEL
    if not isinstance(channel, str) or not channel:
        yield _wrong_value("E015", "WS4REDIS_SOCKETIO_CHANNEL", channel, "a string that is not empty")
    try:
        history.rules()
    except ValueError as error:
        yield checks.Error(f"WS4REDIS_HISTORY is unusable: {error}.", id="ws4redis.E017")
    try:
        EventsKey.parse(settings.WS4REDIS_EVENTS)
    except ValueError as error:
        yield checks.Error(f"WS4REDIS_EVENTS is {settings.WS4REDIS_EVENTS!r}: {error}.", id="ws4redis.E016")
    yield from _check_functions_and_numbers()
    for name, replacement in WITHOUT_EFFECT.items():
        # Sites that write the default of django-websocket-redis lose nothing.
        if getattr(django_settings, name, None) not in (None, settings.DEFAULTS.get(name)):
            yield checks.Warning(f"{name} has no effect.", hint=replacement, id="ws4redis.W004")


def _check_function(name: str, number: str, signature: str) -> Iterator[checks.CheckMessage]:
    function = getattr(settings, name)
    if isinstance(function, str):
        try:
            function = import_string(function)
        except ImportError as error:
            yield checks.Error(f"{name} cannot be imported: {error}", id=f"ws4redis.{number}")
            return
    if function is not None and not callable(function):
        yield _wrong_value(number, name, function, f"a function {signature}, or its dotted path")


def _check_functions_and_numbers() -> Iterator[checks.CheckMessage]:
    yield from _check_function("WS4REDIS_GROUPS", "E006", "of a user")
    yield from _check_function("WS4REDIS_IDENTITY_NAMESPACE", "E014", "without arguments")
    seconds = settings.WS4REDIS_IDENTITY_SECONDS
    if seconds is None:
        return
    if not _is_int(seconds):
        yield _wrong_value("E007", "WS4REDIS_IDENTITY_SECONDS", seconds, "an int (seconds) or None")
    elif seconds < django_settings.SESSION_COOKIE_AGE:
        yield checks.Warning(
            "WS4REDIS_IDENTITY_SECONDS is less than SESSION_COOKIE_AGE; SESSION_COOKIE_AGE is used.",
            hint="Set at least SESSION_COOKIE_AGE: the key of a user must outlive the sessions that it overrides.",
            id="ws4redis.W005",
        )


def check_sessions(app_configs: Sequence[AppConfig] | None, **kwargs: object) -> list[checks.CheckMessage]:
    """Return a warning if the gateway can neither read the sessions nor call the callback view."""
    # Needs models, which exist only after the registration.
    from ws4redis import views

    engine = session_engine.describe()
    # `runserver` has a callback of its own, which the doctor asks for.
    is_in_development = django_settings.DEBUG or views.run_secrets
    if engine.obstacle is None or settings.WS4REDIS_CALLBACK_SECRET or is_in_development:
        return []
    return [
        checks.Warning(
            f"The gateway cannot identify logged-in users: {engine.obstacle}.",
            hint="Set SESSION_ENGINE = 'django.contrib.sessions.backends.cache' with a cache in Redis; or set "
            "WS4REDIS_CALLBACK_SECRET, include ws4redis.urls, and set auth.callback_url in the gateway's settings.toml.",
            id="ws4redis.W006",
        )
    ]


def check_callback(app_configs: Sequence[AppConfig] | None, **kwargs: object) -> list[checks.CheckMessage]:
    """Return the mistakes in the secret and the interval of the callback view."""
    found: list[checks.CheckMessage] = []
    given = settings.WS4REDIS_CALLBACK_SECRET
    if given is not None:
        secrets = [given] if isinstance(given, str) else given
        if not isinstance(secrets, (list, tuple)) or not all(isinstance(secret, str) for secret in secrets):
            # No value, as it is a secret.
            found.append(
                checks.Error(
                    "WS4REDIS_CALLBACK_SECRET has a wrong type; it must be a string or a list of strings.",
                    id="ws4redis.E008",
                )
            )
        elif any(len(secret) < MIN_SECRET_CHARS for secret in secrets):
            found.append(
                checks.Warning(
                    f"WS4REDIS_CALLBACK_SECRET is shorter than {MIN_SECRET_CHARS} characters.",
                    hint="Generate one: python -c 'import secrets; print(secrets.token_urlsafe())'",
                    id="ws4redis.W007",
                )
            )
    seconds = settings.WS4REDIS_CALLBACK_SECONDS
    if not _is_int(seconds) or seconds < 1:
        found.append(_wrong_value("E009", "WS4REDIS_CALLBACK_SECONDS", seconds, "an int of at least 1"))
    return found


def check_deployment(app_configs: Sequence[AppConfig] | None, **kwargs: object) -> list[checks.CheckMessage]:
    """Return a warning for the default Redis, which suits a development machine only."""
    if hasattr(django_settings, "WS4REDIS_CONNECTION"):
        return []
    return [
        checks.Warning(
            "WS4REDIS_CONNECTION is not set; the Redis on localhost:6379 is used.",
            hint="Set WS4REDIS_CONNECTION, for example {'url': 'redis://localhost:6379/0'}.",
            id="ws4redis.W009",
        )
    ]


def _wrong_value(number: str, name: str, value: object, requirement: str) -> checks.Error:
    return checks.Error(f"{name} is {value!r}; it must be {requirement}.", id=f"ws4redis.{number}")


def _is_int(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)
