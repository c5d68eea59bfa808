"""Where and in which format Django stores its sessions, as far as the gateway needs it."""

from __future__ import annotations

import re
from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl, quote, unquote, urlsplit

from django.conf import settings
from django.core.cache import caches
from django.core.exceptions import ImproperlyConfigured

from ws4redis.redis_urls import redis_url
from ws4redis.server_groups import sentinel_url

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from django.contrib.sessions.backends.base import SessionBase

CACHE_ENGINES = frozenset(
    {
        "django.contrib.sessions.backends.cache",
        "django.contrib.sessions.backends.cached_db",
        "qsessions.backends.cached_db",
    }
)
REDIS_SESSIONS = frozenset({"redis_sessions.session", "redis_sessions_fork.session"})
REDIS_CACHES = frozenset(
    {
        "django.core.cache.backends.redis.RedisCache",
        "django_redis.cache.RedisCache",
        "django_valkey.cache.ValkeyCache",
        "redis_cache.RedisCache",
    }
)


@dataclass(frozen=True)
class SessionEngine:
    """Storage of this site's sessions.

    Attributes:
        name: `SESSION_ENGINE`.
        template: The key in Redis, with `{key}` for the session key. None: not in Redis, or unknown.
        signed: Whether the values are signed with `SECRET_KEY`.
        url: URL of the Redis server. None: unknown.
        url_problem: Why the URL is unknown. None: it is known, or no reason is.
        obstacle: Why the gateway cannot read the sessions. None: it can.
    """

    name: str
    template: str | None = None
    signed: bool = False
    url: str | None = None
    url_problem: str | None = None
    obstacle: str | None = None


def describe() -> SessionEngine:
    """Return the storage of this site's sessions, from the settings alone. Opens no connection."""
    name = settings.SESSION_ENGINE
    if name in CACHE_ENGINES:
        return _describe_cache(name)
    if name in REDIS_SESSIONS:
        return _describe_redis_sessions(name)
    reasons = {
        "django.contrib.sessions.backends.db": "are in the database",
        "django.contrib.sessions.backends.file": "are files",
        "django.contrib.sessions.backends.signed_cookies": "are in the cookies themselves",
    }
    return SessionEngine(name, obstacle=f"the sessions of {name} {reasons.get(name, 'may not be in Redis')}")


def store_class() -> type[SessionBase]:
    """Return the `SessionStore` class of this site.

    Raises:
        ImportError: The module named by `SESSION_ENGINE` cannot be imported.
    """
    store: type[SessionBase] = import_module(settings.SESSION_ENGINE).SessionStore
    return store


def _describe_cache(name: str) -> SessionEngine:
    alias = settings.SESSION_CACHE_ALIAS
    configuration = settings.CACHES.get(alias)
    if configuration is None:
        return SessionEngine(name, obstacle=f"SESSION_CACHE_ALIAS {alias!r} is not in CACHES")
    backend = configuration.get("BACKEND", "")
    if not _is_redis_cache(backend):
        return SessionEngine(name, obstacle=f"the cache {alias!r} ({backend}) is not in Redis")
    # Before the cache is loaded, which connects.
    if str((configuration.get("OPTIONS") or {}).get("CLIENT_CLASS", "")).endswith(".ShardClient"):
        return SessionEngine(name, obstacle=f"the cache {alias!r} spreads its keys over several servers")
    try:
        # The attribute exists in CACHE_ENGINES only.
        store: Any = store_class()
        template = str(caches[alias].make_key(f"{store.cache_key_prefix}{{key}}"))
    except (ImportError, ImproperlyConfigured) as error:
        return SessionEngine(name, obstacle=f"the cache {alias!r} cannot be loaded: {error}")
    try:
        return SessionEngine(name, template, url=_url_of_cache(configuration))
    except ValueError as error:
        return SessionEngine(name, template, url_problem=f"the cache {alias!r}: {error}")


def _url_of_cache(configuration: Mapping[str, Any]) -> str | None:
    location: str | Iterable[object] | None = configuration.get("LOCATION")
    # Of several servers, the first is the primary.
    several = re.split("[;,]", location) if isinstance(location, str) else list(location or ())
    if not several:
        return None
    options = dict(configuration.get("OPTIONS") or {})
    # django-redis has names of its own, the other caches those of redis-py.
    arguments = {**options, **(options.get("CONNECTION_POOL_KWARGS") or {})}
    for name in ("username", "password", "db"):
        arguments.setdefault(name, options.get(name.upper()))
    if options.get("SENTINELS"):
        return _url_of_sentinels([str(one).strip() for one in several], options, arguments)
    url = str(several[0]).strip()
    # django-redis-cache also takes a path, and a host with its port.
    if url.startswith("/"):
        url = f"unix://{url}"
    elif "://" not in url and not url.startswith("unix:"):
        url = f"redis://{url}"
    return redis_url({**arguments, "url": url})[0]


def _url_of_sentinels(locations: list[str], options: Mapping[str, Any], arguments: Mapping[str, Any]) -> str:
    """Return the URL of what django-redis finds by its SENTINELS: the host of LOCATION is the name of the service.

    Raises:
        ValueError: The gateway cannot do the same. The text has no secret.
    """
    parts = [urlsplit(location) for location in locations]
    # Several locations are the master and its replicas.
    masters = [
        one for one in parts if dict(parse_qsl(one.query)).get("is_master", "1") not in ("0", "no", "false")
    ]
    place = (masters or parts)[0]
    if not place.hostname:
        raise ValueError("LOCATION does not name a service of SENTINELS, as redis://mymaster/0 does")
    query = dict(parse_qsl(place.query))
    login = {
        "username": unquote(place.username or "") or query.get("username") or arguments.get("username"),
        "password": unquote(place.password or "") or query.get("password") or arguments.get("password"),
        "db": query.get("db") or place.path.strip("/") or arguments.get("db"),
        "ssl": place.scheme == "rediss" or arguments.get("ssl"),
    }
    try:
        nodes = [(str(host), int(port)) for host, port in options["SENTINELS"]]
    except (TypeError, ValueError):
        raise ValueError("SENTINELS is no list of (host, port)") from None
    return sentinel_url(nodes, place.hostname, login, options.get("SENTINEL_KWARGS") or {})


def _is_redis_cache(backend: str) -> bool:
    if backend in REDIS_CACHES:
        return True
    # The site may subclass one of them.
    module, _, name = backend.rpartition(".")
    try:
        found = getattr(import_module(module), name)
    except (ImportError, AttributeError, ValueError, ImproperlyConfigured):
        return False
    return any(f"{base.__module__}.{base.__qualname__}" in REDIS_CACHES for base in found.__mro__)


def _describe_redis_sessions(name: str) -> SessionEngine:
    try:
        # The method exists in REDIS_SESSIONS only.
        session: Any = store_class()()
        template = str(session.get_real_stored_key("{key}"))
    except ImportError as error:
        return SessionEngine(name, obstacle=f"{name} cannot be loaded: {error}")
    return SessionEngine(name, template, signed=True, url=_redis_sessions_url())


def _redis_sessions_url() -> str | None:
    options = getattr(settings, "SESSION_REDIS", None) or {}
    if options.get("url"):
        return str(options["url"])
    if any(options.get(name) for name in ("pool", "POOL", "sentinel_list", "connection")):
        return None
    password = options.get("password")
    login = f":{quote(str(password), safe='')}@" if password else ""
    path = options.get("unix_domain_socket_path")
    if path:
        return f"unix://{login}{path}?db={options.get('db', 0)}"
    return f"redis://{login}{options.get('host', 'localhost')}:{options.get('port', 6379)}/{options.get('db', 0)}"
