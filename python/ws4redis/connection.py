"""One pool of Redis connections per process, configured by `WS4REDIS_CONNECTION`."""

from __future__ import annotations

import os
import threading
from typing import Any
from urllib.parse import urlsplit

import redis
from django.core.signals import setting_changed
from redis.backoff import NoBackoff
from redis.retry import Retry

from ws4redis import settings

# An unreachable Redis must not block a page. WS4REDIS_CONNECTION may set other timeouts.
CONNECT_TIMEOUT_SECONDS = 5
REPLY_TIMEOUT_SECONDS = 5

# redis-py notices only at the next command that Redis has closed an idle connection; one retry replaces it. A timeout
# is not retried: the command may have arrived, and a page waits.
RETRIES = 1

_pool: redis.ConnectionPool | None = None
_lock = threading.Lock()


def pool() -> redis.ConnectionPool:
    """Return the pool of this process; the first call creates it.

    Raises:
        TypeError: `WS4REDIS_CONNECTION` has an argument that redis-py does not know.
        ValueError: redis-py cannot parse the URL in `WS4REDIS_CONNECTION`.
    """
    global _pool
    with _lock:
        if _pool is None:
            _pool = new_pool(dict(settings.WS4REDIS_CONNECTION))
        return _pool


def client() -> redis.Redis:
    """Return a client on the pool. It is cheap to create and safe to share between threads.

    Raises:
        TypeError: `WS4REDIS_CONNECTION` has an argument that redis-py does not know.
        ValueError: redis-py cannot parse the URL in `WS4REDIS_CONNECTION`.
    """
    return redis.Redis(connection_pool=pool())


def with_timeouts(arguments: dict[str, Any]) -> dict[str, Any]:
    """Return the arguments of redis-py with a timeout of replies and one retry, unless they have their own."""
    defaults = {
        "socket_timeout": REPLY_TIMEOUT_SECONDS,
        "retry": Retry(NoBackoff(), RETRIES, supported_errors=(redis.ConnectionError,)),
    }
    return {**defaults, **arguments}


def new_pool(arguments: dict[str, Any]) -> redis.ConnectionPool:
    """Return a new pool. It opens no connection yet.

    Args:
        arguments: Those of redis-py's connections; `url` may take the place of the address.

    Raises:
        TypeError: redis-py does not know an argument.
        ValueError: redis-py cannot parse the URL.
    """
    arguments = with_timeouts(arguments)
    url = arguments.pop("url", None)
    if url is not None:
        if url.startswith("unix:") and not url.startswith("unix://"):
            # The gateway accepts this form, redis-py does not.
            url = "unix://" + url[len("unix:") :]
        if not url.startswith("unix:"):
            arguments.setdefault("socket_connect_timeout", CONNECT_TIMEOUT_SECONDS)
        return redis.ConnectionPool.from_url(url, **arguments)
    if "unix_socket_path" in arguments:
        arguments["path"] = arguments.pop("unix_socket_path")
        # UnixDomainSocketConnection refuses the arguments for TCP.
        for name in ("host", "port", "ssl", "socket_keepalive", "socket_keepalive_options"):
            arguments.pop(name, None)
        arguments.setdefault("connection_class", redis.UnixDomainSocketConnection)
        return redis.ConnectionPool(**arguments)
    arguments.setdefault("socket_connect_timeout", CONNECT_TIMEOUT_SECONDS)
    if arguments.pop("ssl", False):
        arguments.setdefault("connection_class", redis.SSLConnection)
    return redis.ConnectionPool(**arguments)


def address_of(pool: redis.ConnectionPool) -> str:
    """Return the address of a pool's server, without a password."""
    arguments = pool.connection_kwargs
    if hasattr(pool, "service_name"):
        return f"Sentinel's {pool.service_name}"
    return str(arguments.get("path") or f"{arguments.get('host', 'localhost')}:{arguments.get('port', 6379)}")


def problem() -> str | None:
    """Return why `WS4REDIS_CONNECTION` is unusable, or None if it is usable.

    Opens no connection. The text contains no value of the setting, because one of them may be a password.
    """
    arguments = settings.WS4REDIS_CONNECTION
    url = arguments.get("url")
    if url is not None and not isinstance(url, str):
        return "its url must be a string"
    try:
        candidate = new_pool(dict(arguments))
    except ValueError:
        return (
            "its url must begin with redis://, rediss:// or unix:, and its port and database must be numbers"
        )
    except TypeError as error:
        return str(error)
    try:
        # A pool accepts any argument; only the connection refuses unknown ones, at the first command.
        candidate.connection_class(**candidate.connection_kwargs)
    except TypeError as error:
        return str(error).partition(" ")[2]
    except ValueError:
        # The text of this error contains the value.
        return "one of its arguments must be a number"
    except redis.RedisError as error:
        return str(error)
    parts = urlsplit(url or "")
    path = parts.path.strip("/")
    if path and not path.isdigit() and parts.scheme != "unix":
        return "the path of its url must be the number of a database"
    return None


def _reset() -> None:
    global _pool, _lock
    # Another thread of the parent may have held the lock during the fork; it would stay locked in the child.
    _lock = threading.Lock()
    _pool = None


def _on_setting_changed(*, setting: str, **_: object) -> None:  # Django's signals require **kwargs.
    if setting == "WS4REDIS_CONNECTION":
        _reset()


# A child process that shares its parent's connections would read its parent's replies.
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_reset)
setting_changed.connect(_on_setting_changed, dispatch_uid="ws4redis.connection")
