"""One pool of Redis connections for each process."""

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

# A Redis that is gone must not hang a page for ever; WS4REDIS_CONNECTION may say otherwise.
CONNECT_TIMEOUT_SECONDS = 5
REPLY_TIMEOUT_SECONDS = 5

# A connection that Redis has closed since its last use is noticed at the next one, and replaced. No more tries than
# that, and none after a timeout: the command may have arrived, and a page waits.
RETRIES = 1

_pool: redis.ConnectionPool | None = None
_lock = threading.Lock()


def pool() -> redis.ConnectionPool:
    """Returns the pool of this process, which is made at the first call."""
    global _pool
    with _lock:
        if _pool is None:
            _pool = _new_pool(dict(settings.WS4REDIS_CONNECTION))
        return _pool


def client() -> redis.Redis:
    """Returns a client on the pool; cheap, and safe to share between threads."""
    return redis.Redis(connection_pool=pool())


def _new_pool(arguments: dict[str, Any]) -> redis.ConnectionPool:
    arguments.setdefault("socket_timeout", REPLY_TIMEOUT_SECONDS)
    arguments.setdefault("retry", Retry(NoBackoff(), RETRIES, supported_errors=(redis.ConnectionError,)))
    url = arguments.pop("url", None)
    if url is not None:
        if url.startswith("unix:") and not url.startswith("unix://"):
            # The gateway's way to write it.
            url = "unix://" + url[len("unix:") :]
        if not url.startswith("unix:"):
            arguments.setdefault("socket_connect_timeout", CONNECT_TIMEOUT_SECONDS)
        return redis.ConnectionPool.from_url(url, **arguments)
    if "unix_socket_path" in arguments:
        arguments["path"] = arguments.pop("unix_socket_path")
        # redis-py's own names for TCP, which a socket in the file system has no use for.
        for name in ("host", "port", "ssl", "socket_keepalive", "socket_keepalive_options"):
            arguments.pop(name, None)
        arguments.setdefault("connection_class", redis.UnixDomainSocketConnection)
        return redis.ConnectionPool(**arguments)
    arguments.setdefault("socket_connect_timeout", CONNECT_TIMEOUT_SECONDS)
    if arguments.pop("ssl", False):
        arguments.setdefault("connection_class", redis.SSLConnection)
    return redis.ConnectionPool(**arguments)


def problem() -> str | None:
    """Returns why WS4REDIS_CONNECTION cannot be used, or None; asks no server, and shows no value."""
    arguments = settings.WS4REDIS_CONNECTION
    url = arguments.get("url")
    if url is not None and not isinstance(url, str):
        return "its url must be a text"
    try:
        made = _new_pool(dict(arguments))
    except ValueError:
        return "its url must begin with redis://, rediss:// or unix:, with a number as port and database"
    except TypeError as error:
        return str(error)
    try:
        # redis-py itself would say so at the first command.
        made.connection_class(**made.connection_kwargs)
    except TypeError as error:
        return str(error).partition(" ")[2]
    except ValueError:
        # Its text has the value.
        return "one of its arguments has to be a number, and is none"
    except redis.RedisError as error:
        return str(error)
    parts = urlsplit(url or "")
    path = parts.path.strip("/")
    if path and not path.isdigit() and parts.scheme != "unix":
        return "the path of its url must be the number of a database"
    return None


def _forget(**_: Any) -> None:
    global _pool, _lock
    # A forked child may have been born while another thread of its parent held the lock.
    _lock = threading.Lock()
    _pool = None


def _setting_changed(*, setting: str, **_: Any) -> None:
    if setting == "WS4REDIS_CONNECTION":
        _forget()


# A child that went on with its parent's connections would read its parent's replies.
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget)
setting_changed.connect(_setting_changed, dispatch_uid="ws4redis.connection")
