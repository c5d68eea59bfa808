"""URLs of Redis Sentinel and Redis Cluster in `WS4REDIS_CONNECTION`, in the form that the gateway's `redis.url` has."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qsl, quote, unquote, urlencode, urlsplit

SENTINEL_PORT = 26379
REDIS_PORT = 6379
SCHEMES = ("redis-sentinel", "rediss-sentinel", "redis-cluster", "rediss-cluster")


@dataclass(frozen=True)
class ServerGroup:
    """Servers that elect a master, or share the keys.

    Attributes:
        is_cluster: A Redis Cluster; otherwise the nodes are sentinels.
        nodes: Host and port of each node that the URL names; the others are discovered.
        service: The master's name at the sentinels.
        arguments: Arguments of redis-py's connections to the servers.
        sentinel_arguments: Those of the connections to the sentinels.
    """

    is_cluster: bool
    nodes: list[tuple[str, int]]
    service: str = ""
    arguments: dict[str, Any] = field(default_factory=dict)
    sentinel_arguments: dict[str, Any] = field(default_factory=dict)


def is_group(url: object) -> bool:
    """Return True if the URL names sentinels or a cluster."""
    return isinstance(url, str) and url.partition(":")[0] in SCHEMES


def parse(url: str) -> ServerGroup:
    """Parse `redis-sentinel://host:26379/0?sentinelServiceName=mymaster&node=host2` or `redis-cluster://host:6379`.

    Raises:
        ValueError: A part is missing, unknown or no number. The text has no value of the URL, which may be secret.
    """
    parts = urlsplit(url)
    is_cluster, is_encrypted = parts.scheme.endswith("-cluster"), parts.scheme.startswith("rediss")
    query: dict[str, list[str]] = {}
    for name, value in parse_qsl(parts.query, keep_blank_values=True):
        query.setdefault(name, []).append(value)
    login, _, host = parts.netloc.rpartition("@")
    user, _, password = login.partition(":")
    port = REDIS_PORT if is_cluster else SENTINEL_PORT
    nodes = [_address(one, port) for one in [host, *query.pop("node", [])]]
    arguments: dict[str, Any] = {
        "username": unquote(user) or _take(query, "username"),
        "password": unquote(password) or _take(query, "password"),
    }
    for name in ("username", "password"):
        query.pop(name, None)
    database = _take(query, "db") or parts.path.strip("/") or "0"
    if not database.isdigit():
        raise ValueError("the database of its url must be a number")
    if is_encrypted:
        arguments["ssl"] = True
    sentinel_arguments: dict[str, Any] = {"ssl": True} if is_encrypted else {}
    service = ""
    if is_cluster:
        if int(database) != 0:
            raise ValueError("a cluster has database 0 only")
    else:
        arguments["db"] = int(database)
        service = _take(query, "sentinelServiceName")
        if not service:
            raise ValueError(
                "its url must have ?sentinelServiceName=mymaster, as `sentinel monitor` calls it"
            )
        for name in ("Username", "Password"):
            value = _take(query, f"sentinel{name}")
            if value:
                sentinel_arguments[name.lower()] = value
    if query:
        raise ValueError(f"its url has the unknown parameter {min(query)[:40]!r}")
    known = {name: value for name, value in arguments.items() if value != ""}
    return ServerGroup(is_cluster, nodes, service, known, sentinel_arguments)


def sentinel_url(
    nodes: Iterable[tuple[str, int]],
    service: str,
    arguments: Mapping[str, Any],
    sentinel_arguments: Mapping[str, Any],
) -> str:
    """Return the URL that `parse` reads, from redis-py's arguments.

    Args:
        nodes: Host and port of each sentinel.
        service: The master's name at the sentinels.
        arguments: `username`, `password`, `db` and `ssl` of the connections to the servers; others are ignored.
        sentinel_arguments: Those of the connections to the sentinels, without `db`.

    Raises:
        ValueError: There is no sentinel, or only one of both kinds of connections is encrypted. The text has no secret.
    """
    places = [f"[{host}]:{port}" if ":" in host else f"{host}:{port}" for host, port in nodes]
    if not places:
        raise ValueError("no sentinel is named")
    is_encrypted = bool(arguments.get("ssl"))
    if is_encrypted != bool(sentinel_arguments.get("ssl")):
        raise ValueError("TLS is for both in the gateway, or for neither: for Redis and for its sentinels")
    username, password = (quote(str(arguments.get(name) or ""), safe="") for name in ("username", "password"))
    login = f"{username}:{password}@" if username or password else ""
    query = [("sentinelServiceName", service), *(("node", place) for place in places[1:])]
    for name in ("username", "password"):
        if sentinel_arguments.get(name):
            query.append((f"sentinel{name.capitalize()}", str(sentinel_arguments[name])))
    scheme = "rediss-sentinel" if is_encrypted else "redis-sentinel"
    return f"{scheme}://{login}{places[0]}/{arguments.get('db') or 0}?{urlencode(query, quote_via=quote, safe=':[]')}"


def _take(query: dict[str, list[str]], name: str) -> str:
    return query.pop(name, [""])[0]


def _address(text: str, default_port: int) -> tuple[str, int]:
    host, port = text, ""
    if text.startswith("["):
        host, _, port = text[1:].partition("]")
        port = port.removeprefix(":")
    elif ":" in text:
        host, _, port = text.partition(":")
    if port and not (port.isdigit() and 0 < int(port) < 65536):
        raise ValueError("a port of its url must be a number from 1 to 65535")
    return unquote(host).lower() or "localhost", int(port or default_port)
