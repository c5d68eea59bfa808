"""One pool of Redis connections per process, configured by `WS4REDIS_CONNECTION`."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Callable, TypeVar
from urllib.parse import urlsplit

import redis
from django.core.signals import setting_changed
from redis.backoff import NoBackoff
from redis.cluster import ClusterNode
from redis.retry import Retry
from redis.sentinel import Sentinel, SentinelConnectionPool

from ws4redis import server_groups, settings

if TYPE_CHECKING:
    from ws4redis.server_groups import ServerGroup

T = TypeVar("T")

# An unreachable Redis must not block a page. WS4REDIS_CONNECTION may set other timeouts.
CONNECT_TIMEOUT_SECONDS = 5
REPLY_TIMEOUT_SECONDS = 5

# redis-py notices only at the next command that Redis has closed an idle connection; one retry replaces it. A timeout
# is not retried: the command may have arrived, and a page waits.
RETRIES = 1

# Publishers of one process wait for a connection instead of opening more: a burst must not exhaust Redis' maxclients.
MAX_CONNECTIONS = 100

# The pools of sentinels and clusters cannot wait. redis-py 8 would refuse the 101st connection.
MAX_UNQUEUED_CONNECTIONS = 10_000

_pool: redis.ConnectionPool | None = None
_cluster: ClusterClient | None = None
_lock = threading.Lock()


class ClusterClient(redis.RedisCluster):
    """A client of a Redis Cluster that never sends a command twice after a timeout."""

    # A timeout is not retried, as in `with_timeouts`.
    ERRORS_ALLOW_RETRY = (redis.ConnectionError, redis.exceptions.ClusterDownError)  # type: ignore[assignment]


def is_cluster() -> bool:
    """Return True if `WS4REDIS_CONNECTION` names a Redis Cluster."""
    # A value of another type is an error that the callers know.
    url: Any = dict(settings.WS4REDIS_CONNECTION).get("url")
    return server_groups.is_group(url) and "-cluster:" in url


def pool() -> redis.ConnectionPool:
    """Return the pool of this process; the first call creates it.

    Raises:
        TypeError: `WS4REDIS_CONNECTION` has an argument that redis-py does not know.
        ValueError: The URL in `WS4REDIS_CONNECTION` is invalid, or names a cluster, which has a pool for each node.
    """
    global _pool
    with _lock:
        if _pool is None:
            _pool = new_pool(dict(settings.WS4REDIS_CONNECTION))
        return _pool


def client() -> redis.Redis:
    """Return a client. It is cheap to create and safe to share between threads.

    In a cluster it is the `ClusterClient` of this process, which has the same commands, but pipelines of its own: use
    `with_client_of` for several commands at once. The first call then waits for the cluster.

    Raises:
        TypeError: `WS4REDIS_CONNECTION` has an argument that redis-py does not know.
        ValueError: The URL in `WS4REDIS_CONNECTION` is invalid.
        redis.RedisError: No node of the cluster can be reached.
    """
    if not is_cluster():
        return redis.Redis(connection_pool=pool())
    global _cluster
    with _lock:
        if _cluster is None:
            _cluster = _new_cluster(dict(settings.WS4REDIS_CONNECTION))
        return _cluster  # type: ignore[return-value]


def pool_of(key: str) -> redis.ConnectionPool:
    """Return the pool of the server that holds a key: the only one, or in a cluster that of the node.

    Raises:
        TypeError: As for `client`.
        ValueError: As for `client`.
        redis.RedisError: As for `client`.
    """
    if not is_cluster():
        return pool()
    found: Any = client()
    node: redis.ConnectionPool = found.get_redis_connection(found.get_node_from_key(key)).connection_pool
    return node


def with_client_of(key: str, function: Callable[[redis.Redis], T]) -> T:
    """Return `function(client)` with a client of the server that holds a key: the only one, or a cluster's node.

    Args:
        key: Name of the key.
        function: Called again if the key has moved to another node, so it must be safe to repeat.

    Raises:
        redis.RedisError: As `function`, and as for `client`.
    """
    found = client()
    if not isinstance(found, ClusterClient):
        return function(found)
    for _ in range(2):
        try:
            return function(found.get_redis_connection(found.get_node_from_key(key)))
        except (redis.exceptions.MovedError, redis.ConnectionError):
            found.nodes_manager.initialize()
    return function(found.get_redis_connection(found.get_node_from_key(key)))


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
        arguments: Those of redis-py's connections; `url` may replace the address.

    Raises:
        TypeError: redis-py does not know an argument.
        ValueError: The URL is invalid, or names a cluster.
    """
    arguments = with_timeouts(arguments)
    url = arguments.pop("url", None)
    if server_groups.is_group(url):
        group = server_groups.parse(url)
        if group.is_cluster:
            raise ValueError("a cluster has a pool for each node")
        return _sentinel_pool(group, arguments)
    arguments.setdefault("max_connections", MAX_CONNECTIONS)
    # Seconds that a publisher waits for a connection of the pool.
    arguments.setdefault("timeout", REPLY_TIMEOUT_SECONDS)
    if url is not None:
        if url.startswith("unix:") and not url.startswith("unix://"):
            # The gateway accepts this form, redis-py does not.
            url = "unix://" + url[len("unix:") :]
        if not url.startswith("unix:"):
            arguments.setdefault("socket_connect_timeout", CONNECT_TIMEOUT_SECONDS)
        return redis.BlockingConnectionPool.from_url(url, **arguments)
    if "unix_socket_path" in arguments:
        arguments["path"] = arguments.pop("unix_socket_path")
        # UnixDomainSocketConnection refuses the arguments for TCP.
        for name in ("host", "port", "ssl", "socket_keepalive", "socket_keepalive_options"):
            arguments.pop(name, None)
        arguments.setdefault("connection_class", redis.UnixDomainSocketConnection)
        return redis.BlockingConnectionPool(**arguments)
    arguments.setdefault("socket_connect_timeout", CONNECT_TIMEOUT_SECONDS)
    if arguments.pop("ssl", False):
        arguments.setdefault("connection_class", redis.SSLConnection)
    return redis.BlockingConnectionPool(**arguments)


@contextmanager
def single_use(url: str, **arguments: Any) -> Iterator[redis.Redis]:  # noqa: ANN401 - redis-py's
    """Return a client of another server than the site's; its connections are closed at the end.

    Args:
        url: As for `new_pool`.
        arguments: As for `new_pool`.

    Raises:
        TypeError: As for `new_pool`.
        ValueError: As for `new_pool`.
    """
    found = new_pool({"url": url, **arguments})
    try:
        yield redis.Redis(connection_pool=found)
    finally:
        found.disconnect()


def _sentinel_pool(group: ServerGroup, arguments: dict[str, Any]) -> redis.ConnectionPool:
    arguments.setdefault("socket_connect_timeout", CONNECT_TIMEOUT_SECONDS)
    arguments.setdefault("max_connections", MAX_UNQUEUED_CONNECTIONS)
    timeouts = ("socket_timeout", "socket_connect_timeout")
    tls = {name: value for name, value in arguments.items() if name.startswith("ssl") or name in timeouts}
    sentinel = Sentinel(group.nodes, sentinel_kwargs={**tls, **group.sentinel_arguments})
    return SentinelConnectionPool(group.service, sentinel, **{**arguments, **group.arguments})


def _new_cluster(arguments: dict[str, Any]) -> ClusterClient:
    group = server_groups.parse(arguments.pop("url"))
    defaults = {
        "socket_timeout": REPLY_TIMEOUT_SECONDS,
        "socket_connect_timeout": CONNECT_TIMEOUT_SECONDS,
        "max_connections": MAX_UNQUEUED_CONNECTIONS,
        "cluster_error_retry_attempts": RETRIES,
    }
    nodes = [ClusterNode(host, port) for host, port in group.nodes]
    return ClusterClient(startup_nodes=nodes, **{**defaults, **arguments, **group.arguments})


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
    if url is not None and server_groups.is_group(url):
        return _group_problem(url, {name: value for name, value in arguments.items() if name != "url"})
    try:
        candidate = new_pool(dict(arguments))
    except ValueError:
        return (
            "its url must begin with redis://, rediss://, unix:, redis-sentinel:// or redis-cluster://, "
            "and its port and database must be numbers"
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


def _group_problem(url: str, arguments: dict[str, Any]) -> str | None:
    try:
        group = server_groups.parse(url)
        connections = {**arguments, **group.arguments}
        kind = redis.SSLConnection if connections.pop("ssl", False) else redis.Connection
        connections.pop("max_connections", None)
        kind(**connections)
    except ValueError as error:
        return str(error)
    except TypeError as error:
        return str(error).partition(" ")[2]
    return None


def _reset() -> None:
    global _pool, _cluster, _lock
    # Another thread of the parent may have held the lock during the fork; it would stay locked in the child.
    _lock = threading.Lock()
    _pool = _cluster = None


def _on_setting_changed(*, setting: str, **_: object) -> None:  # Django's signals require **kwargs.
    if setting == "WS4REDIS_CONNECTION":
        _reset()


# A child process that shares its parent's connections would read its parent's replies.
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_reset)
setting_changed.connect(_on_setting_changed, dispatch_uid="ws4redis.connection")
