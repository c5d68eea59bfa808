"""Redis URLs in the form that the gateway reads, from the arguments of redis-py."""

from __future__ import annotations

import ssl
from collections.abc import Mapping
from typing import Any, Final
from urllib.parse import parse_qsl, quote, unquote, urlencode, urlsplit, urlunsplit

# Arguments of redis-py that the gateway has as settings.
TLS_SETTINGS: Final = {
    "ssl_ca_certs": "redis.ca_file",
    "ssl_certfile": "redis.client_cert_file",
    "ssl_keyfile": "redis.client_key_file",
}
# Query parameters of Redis URLs that the gateway knows; it refuses those that only redis-py knows.
URL_PARAMETERS: Final = frozenset(
    {"db", "node", "password", "sentinelPassword", "sentinelServiceName", "sentinelUsername", "username"}
)


def redis_url(arguments: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    """Return the URL for arguments of redis-py, in the gateway's form, and the gateway's settings for their TLS.

    Args:
        arguments: Those of a connection, such as `WS4REDIS_CONNECTION`; what `url` says wins.
    """
    arguments = dict(arguments)
    url = arguments.pop("url", None)
    if url is None:
        url = _url_without_login(arguments)
    parts = urlsplit(str(url))
    query = dict(parse_qsl(parts.query))
    queried = parse_qsl(parts.query)
    tls = _tls({**arguments, **query})
    login, at, place = parts.netloc.rpartition("@")
    username, password = query.get("username") or arguments.get("username"), query.get(
        "password"
    ) or arguments.get("password")
    if not at and (username or password):
        login = f"{quote(str(username or ''), safe='')}:{quote(str(password or ''), safe='')}"
        at = "@"
    kept = [pair for pair in queried if pair[0] in URL_PARAMETERS - {"username", "password"}]
    path = parts.path
    database = arguments.get("db") or 0
    if parts.scheme == "unix":
        if "db" not in query and database:
            kept.append(("db", str(database)))
        # Without a host, urlunsplit would leave out the slashes, and a login needs them.
        text = f"unix://{login}{at}{path}"
        return text + (f"?{urlencode(kept)}" if kept else ""), tls
    if database and "db" not in query and path in ("", "/"):
        path = f"/{database}"
    return urlunsplit((parts.scheme, f"{login}{at}{place}", path, urlencode(kept, quote_via=quote), "")), tls


def _url_without_login(arguments: dict[str, Any]) -> str:
    path = arguments.get("unix_socket_path")
    if path:
        return f"unix://{path}"
    host = str(arguments.get("host") or "localhost")
    host = f"[{host}]" if ":" in host else host
    scheme = "rediss" if arguments.get("ssl") else "redis"
    return f"{scheme}://{host}:{arguments.get('port') or 6379}/{arguments.get('db') or 0}"


def _tls(arguments: Mapping[str, Any]) -> dict[str, Any]:
    found = {setting: str(arguments[name]) for name, setting in TLS_SETTINGS.items() if arguments.get(name)}
    # None turns verification off in redis-py, too.
    if arguments.get("ssl_cert_reqs", "required") in (None, "none", "CERT_NONE", ssl.CERT_NONE):
        found["redis.verify_certificate"] = False  # type: ignore[assignment]
    return found


def has_password(value: object) -> bool:
    """Return True if a URL, or one of several, has a password."""
    urls = value if isinstance(value, (list, tuple)) else [value]
    return any(
        ":" in urlsplit(str(url)).netloc.rpartition("@")[0] or "password=" in urlsplit(str(url)).query.lower()
        for url in urls
    )


def is_same_database(one: str, other: str) -> bool:
    """Return True if two URLs name the same database of the same server. This machine has several names."""
    return _place(one) == _place(other)


def _place(url: str) -> tuple[object, ...]:
    parts = urlsplit(url)
    query = dict(parse_qsl(parts.query))
    place = parts.netloc.rpartition("@")[2]
    if parts.scheme == "unix":
        return ("unix", parts.path, query.get("db", "0"))
    host = place if place.startswith("[") else place.partition(":")[0]
    host = "localhost" if host in ("127.0.0.1", "[::1]") else host
    return (
        parts.scheme,
        host,
        parts.port or 6379,
        query.get("db") or parts.path.strip("/") or "0",
        query.get("node"),
    )


def masked(url: str) -> str:
    """Return a URL without its login and its parameters, for people."""
    parts = urlsplit(url)
    _, at, place = parts.netloc.rpartition("@")
    return urlunsplit((parts.scheme, f"***@{place}" if at else place, unquote(parts.path), "", ""))
