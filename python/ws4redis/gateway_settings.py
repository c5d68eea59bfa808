"""The gateway's settings, as far as Django's settings determine them.

`manage.py runserver`, `ws4redis` and `ws4redis_settings` derive them here, so that a site writes each value once.
`WS4REDIS_GATEWAY` adds what only the gateway has, such as rules, and wins over what is derived.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Final

from django.apps import apps
from django.conf import settings as django_settings
from django.utils.module_loading import module_has_submodule

from ws4redis import handlers, history, session_engine, settings
from ws4redis.redis_urls import has_password, is_same_database, masked, redis_url

# Settings whose values are secrets; of the URLs only those with a password are.
SECRETS: Final = frozenset(
    {
        "admin.token",
        "auth.callback_secret",
        "channels.symmetric_encryption_keys",
        "session.secret_key",
        "session.secret_key_fallbacks",
    }
)
# Headers of the callback whose values are secrets.
SECRET_HEADER: Final = re.compile(r"authorization|cookie|key|secret|token", re.I)
URLS: Final = frozenset({"channels.hosts", "redis.url", "session.redis_url"})


@dataclass(frozen=True)
class Derived:
    """A setting of the gateway.

    Attributes:
        value: The value: a str, int, bool, list, or list of dicts for a table.
        source: The setting of Django that it comes from.
        secret: Whether the value is a secret.
    """

    value: Any
    source: str
    secret: bool = False


@dataclass(frozen=True)
class GatewaySettings:
    """Settings of the gateway by name, such as `session.cookie`.

    Attributes:
        values: The settings that differ from the gateway's defaults, or have to equal Django's.
        notes: What cannot be derived, each with its cure.
    """

    values: dict[str, Derived]
    notes: list[str] = field(default_factory=list)

    def get(self, name: str, default: object = None) -> Any:  # noqa: ANN401 - settings have several types
        """Return the value of a setting."""
        found = self.values.get(name)
        return default if found is None else found.value

    def updated(self, source: str, values: Mapping[str, Any]) -> GatewaySettings:
        """Return a copy with these settings, which win."""
        return replace(
            self,
            values={**self.values, **{name: _derived(name, value, source) for name, value in values.items()}},
        )

    def without(self, *names: str) -> GatewaySettings:
        """Return a copy without these settings."""
        return replace(self, values={name: value for name, value in self.values.items() if name not in names})

    def as_toml(self, *, secrets: bool) -> str:
        """Return the text of a settings file.

        Args:
            secrets: Whether to write secrets. Otherwise a comment says which are left out, and what to do.
        """
        lines = [*_lines(self.values, "", secrets)]
        tables: dict[str, dict[str, Derived]] = {}
        for name, setting in self.values.items():
            table, dot, key = name.rpartition(".")
            if dot:
                tables.setdefault(table, {})[key] = setting
        for table, values in tables.items():
            lines += ["", f"[{table}]", *_lines(values, f"{table}.", secrets)]
        for name, setting in self.values.items():
            if _is_table(name, setting.value):
                for row in setting.value:
                    lines += [
                        "",
                        f"[[{name}]]",
                        *(f"{_key(key)} = {_toml(value)}" for key, value in row.items()),
                    ]
        return "\n".join(lines).strip("\n") + "\n"


def derive() -> GatewaySettings:
    """Return the settings that the gateway needs for this site. Opens no connection.

    Raises:
        ValueError: `WS4REDIS_HISTORY`, `WS4REDIS_CONNECTION` or `WS4REDIS_GATEWAY` is unusable.
    """
    notes: list[str] = []
    values = dict(_messages())
    values.update(_redis(notes))
    values.update(_sessions(values["redis.url"].value, notes))
    values.update(_origins())
    values.update(_features())
    own = dict(_flat(settings.WS4REDIS_GATEWAY))
    if any(name.startswith("channels.") for name in own):
        values.update(_channel_layer())
    derived = GatewaySettings(values, notes).updated("WS4REDIS_GATEWAY", own)
    return _with_callback(derived)


def _derived(name: str, value: object, source: str) -> Derived:
    secret = bool(value) and (
        name in SECRETS
        or (name in URLS and has_password(value))
        or (name == "auth.callback_headers" and SECRET_HEADER.search(str(value)) is not None)
    )
    return Derived(value, source, secret)


def _messages() -> Iterator[tuple[str, Derived]]:
    expire = settings.WS4REDIS_EXPIRE
    yield "websocket_url", Derived(settings.WEBSOCKET_URL, "WEBSOCKET_URL")
    yield "expire", Derived(max(0, expire or 0), "WS4REDIS_EXPIRE")
    yield "prefix", Derived(settings.WS4REDIS_PREFIX or "", "WS4REDIS_PREFIX")
    yield "heartbeat", Derived(settings.heartbeat_text() or "", "WS4REDIS_HEARTBEAT")
    rules = [rule.as_table() for rule in history.rules()]
    if rules:
        yield "history", Derived(rules, "WS4REDIS_HISTORY")


def _redis(notes: list[str]) -> Iterator[tuple[str, Derived]]:
    source = "WS4REDIS_CONNECTION"
    arguments = dict(settings.WS4REDIS_CONNECTION)
    url, tls = redis_url(arguments)
    yield "redis.url", _derived("redis.url", url, source)
    for name, value in tls.items():
        yield name, Derived(value, source)
    if "connection_class" in arguments or "connection_pool" in arguments:
        notes.append(f"{source} has an argument that only Python has; check redis.url")


def _sessions(messages: str, notes: list[str]) -> Iterator[tuple[str, Derived]]:
    yield "session.cookie", Derived(django_settings.SESSION_COOKIE_NAME, "SESSION_COOKIE_NAME")
    engine = session_engine.describe()
    source = f"SESSION_ENGINE {engine.name}"
    if engine.template is None:
        return
    form = "signed" if engine.signed else "cache"
    yield "session.keys", Derived([f"{form} {engine.template}"], source)
    if engine.url is None:
        reason = f" ({engine.url_problem})" if engine.url_problem else ""
        notes.append(
            f"The Redis of the sessions is unknown{reason}; set session.redis_url, unless it is redis.url"
        )
    else:
        url, _ = redis_url({"url": engine.url})
        if not is_same_database(url, messages):
            yield "session.redis_url", _derived("session.redis_url", url, source)
    if engine.signed:
        yield "session.secret_key", _derived(
            "session.secret_key", _text(django_settings.SECRET_KEY), "SECRET_KEY"
        )
        fallbacks = [_text(key) for key in getattr(django_settings, "SECRET_KEY_FALLBACKS", ())]
        if fallbacks:
            yield "session.secret_key_fallbacks", _derived(
                "session.secret_key_fallbacks", fallbacks, "SECRET_KEY_FALLBACKS"
            )
        store = session_engine.store_class().__qualname__
        if store != "SessionStore":
            yield "session.store_class", Derived(store, source)


def _origins() -> Iterator[tuple[str, Derived]]:
    # "*" would admit the pages of all sites. Without it the page's own host is admitted anyway.
    hosts = [host for host in django_settings.ALLOWED_HOSTS if host != "*"]
    if hosts and len(hosts) == len(django_settings.ALLOWED_HOSTS):
        yield "origin.allowed_hosts", Derived(hosts, "ALLOWED_HOSTS")
    origins = list(django_settings.CSRF_TRUSTED_ORIGINS)
    if origins:
        yield "origin.allowed", Derived(origins, "CSRF_TRUSTED_ORIGINS")


def _features() -> Iterator[tuple[str, Derived]]:
    channel = settings.WS4REDIS_SOCKETIO_CHANNEL
    if channel != settings.DEFAULTS["WS4REDIS_SOCKETIO_CHANNEL"]:
        yield "socketio.redis_manager.channels", Derived([channel], "WS4REDIS_SOCKETIO_CHANNEL")
    if hasattr(django_settings, "WS4REDIS_EVENTS"):
        yield "events.to", Derived(settings.WS4REDIS_EVENTS, "WS4REDIS_EVENTS")
    elif any(module_has_submodule(app.module, handlers.MODULE) for app in apps.get_app_configs()):
        yield "events.to", Derived(settings.WS4REDIS_EVENTS, f"an app has {handlers.MODULE}.py")


def _channel_layer() -> Iterator[tuple[str, Derived]]:
    # Imports redis-py's Sentinel, which only sites with Channels need.
    from ws4redis import channels

    derived = channels.gateway_settings()
    if not derived:
        return
    source = "CHANNEL_LAYERS"
    config = getattr(django_settings, "CHANNEL_LAYERS", {})["default"].get("CONFIG", {})
    for name in ("channels.layer", "channels.prefix", "channels.serializer"):
        yield name, Derived(derived[name], source)
    hosts = [_host_url(host) for host in config.get("hosts") or ["redis://localhost:6379"]]
    yield "channels.hosts", _derived("channels.hosts", hosts, source)
    keys = [_text(key) for key in config.get("symmetric_encryption_keys") or ()]
    if keys:
        yield "channels.symmetric_encryption_keys", _derived(
            "channels.symmetric_encryption_keys", keys, source
        )


def _host_url(host: object) -> str:
    if isinstance(host, str):
        return redis_url({"url": host})[0]
    if isinstance(host, (list, tuple)):
        return redis_url({"host": host[0], "port": host[1]})[0]
    arguments = dict(host) if isinstance(host, Mapping) else {}
    address = arguments.pop("address", None)
    if isinstance(address, str):
        return redis_url({"url": address, **arguments})[0]
    if isinstance(address, (list, tuple)):
        return redis_url({"host": address[0], "port": address[1], **arguments})[0]
    return redis_url(arguments)[0]


def _with_callback(derived: GatewaySettings) -> GatewaySettings:
    """Add the secret of the callback if the site has set its address, and a note if sessions need one."""
    if derived.get("auth.callback_url"):
        secret = settings.WS4REDIS_CALLBACK_SECRET or ""
        first = secret if isinstance(secret, str) else next(iter(secret), "")
        if first and not any(derived.get(f"auth.callback_secret{end}") for end in ("", "_file")):
            return derived.updated("WS4REDIS_CALLBACK_SECRET", {"auth.callback_secret": first})
        return derived
    obstacle = session_engine.describe().obstacle
    if obstacle is not None and not derived.get("auth.jwt.algorithm"):
        derived.notes.append(
            f"The gateway cannot identify logged-in users: {obstacle}. Keep them in a cache in Redis, or set "
            "auth.callback_url, as in WS4REDIS_GATEWAY = {'auth': {'callback_url': 'http://127.0.0.1:8001/ws4redis/identity/'}}"
        )
    return derived


# ---- Form ------------------------------------------------------------------------------------------------------------


def _flat(values: object, prefix: str = "") -> Iterator[tuple[str, Any]]:
    if not isinstance(values, Mapping):
        raise ValueError(f"WS4REDIS_GATEWAY is a {type(values).__name__}; it must be a dict")
    for name, value in values.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{name}.")
        # A variable of the environment that is not set.
        elif value is not None:
            yield f"{prefix}{name}", value


def _is_table(name: str, value: object) -> bool:
    return (
        "." not in name
        and isinstance(value, (list, tuple))
        and any(isinstance(row, Mapping) for row in value)
    )


def _lines(values: Mapping[str, Derived], prefix: str, secrets: bool) -> Iterator[str]:
    for name, setting in values.items():
        if "." in name or _is_table(f"{prefix}{name}", setting.value):
            continue
        if setting.secret and not secrets:
            yield from _left_out(f"{prefix}{name}", name, setting)
        else:
            yield f"{_key(name)} = {_toml(setting.value)}  # {setting.source}"


def _left_out(name: str, key: str, setting: Derived) -> Iterator[str]:
    yield f"# {key} is left out, because it is a secret ({setting.source}). `--secrets` prints it, `--output FILE` writes it."
    if name in ("session.secret_key", "auth.callback_secret", "admin.token"):
        yield f'# Or: {key}_file = "/etc/ws4redis/{key}"'
    elif isinstance(setting.value, str):
        yield f"# Or set the variable WS4REDIS_{name.upper().replace('.', '__')}. It is {masked(setting.value)}"


def _key(name: str) -> str:
    plain = name.replace("_", "").replace("-", "")
    return name if plain.isascii() and plain.isalnum() else json.dumps(name)


def _toml(value: object) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, (int, float)):
        return str(value)
    if isinstance(value, (list, tuple, set, frozenset)):
        return f"[{', '.join(_toml(item) for item in value)}]"
    if isinstance(value, Mapping):
        return "{ " + ", ".join(f"{_key(str(key))} = {_toml(item)}" for key, item in value.items()) + " }"
    # A TOML string has the escapes of JSON, and must not contain DEL.
    return json.dumps(str(value), ensure_ascii=False).replace("\x7f", "\\u007F")


def _text(value: object) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)
