"""System checks of the site's templates: the variables that they need, and addresses that subscribe to nothing."""

from __future__ import annotations

import os
import re
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Final
from urllib.parse import parse_qsl, unquote

from django.conf import settings as django_settings
from django.core import checks
from django.template import engines
from django.template.backends.django import DjangoTemplates

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from django.apps import AppConfig

PROCESSOR: Final = "ws4redis.context_processors.default"
VARIABLE: Final = re.compile(r"\bWEBSOCKET_URI\b")
VARIABLES: Final = re.compile(r"\b(?:WEBSOCKET_URI|WS4REDIS_HEARTBEAT)\b")
# `uri: '{{ WEBSOCKET_URI }}foobar?subscribe-broadcast'`, and the address of `new WebSocket(…)`. A string that is continued
# by `+`, or has further variables, is known to the browser only.
ADDRESS: Final = re.compile(
    r"""(?:\buri\s*:|\bnew\s+WebSocket\s*\()\s*(['"`])\{\{\s*WEBSOCKET_URI\s*\}\}([^'"`{}$]*)\1\s*(\+?)"""
)
FLAGS: Final = frozenset(
    f"{action}-{audience}"
    for action in ("subscribe", "publish")
    for audience in ("broadcast", "user", "group", "session")
)
# Folders of what the site has only installed.
PACKAGES: Final = frozenset({"dist-packages", "node_modules", "site-packages"})
# Enough for any site, and an end for a folder that is no folder of templates.
MAX_TEMPLATES: Final = 5_000
MAX_BYTES: Final = 1 << 20


def check_pages(app_configs: Sequence[AppConfig] | None, **kwargs: object) -> list[checks.CheckMessage]:
    """Return a missing context processor, and addresses without a valid flag, which open and stay silent."""
    found: list[checks.CheckMessage] = []
    for engine in engines.all():
        if not isinstance(engine, DjangoTemplates):
            continue
        using: str | None = None
        for file, text in _templates(engine):
            if using is None and VARIABLES.search(text):
                using = str(file)
            found += _silent_addresses(file, text)
        if using is not None and PROCESSOR not in engine.engine.context_processors:
            found.append(
                checks.Warning(
                    f"{using} uses WEBSOCKET_URI or WS4REDIS_HEARTBEAT, and {PROCESSOR} is not in context_processors of "
                    "TEMPLATES; both are empty.",
                    hint=f"Add '{PROCESSOR}' to TEMPLATES[…]['OPTIONS']['context_processors'].",
                    id="ws4redis.W013",
                )
            )
    return found


def check_scheme(app_configs: Sequence[AppConfig] | None, **kwargs: object) -> list[checks.CheckMessage]:
    """Return a warning if pages come by https and Django may take their requests for http: WEBSOCKET_URI is then ws://."""
    return plain_addresses() if _is_https() else []


def plain_addresses() -> list[checks.CheckMessage]:
    """Return a warning if WEBSOCKET_URI may begin with ws:// on the pages of a site with https."""
    # With the redirect Django knows of https: it would redirect without end otherwise.
    if django_settings.SECURE_PROXY_SSL_HEADER is not None or django_settings.SECURE_SSL_REDIRECT:
        return []
    using = next((file for file in _site_templates() if VARIABLE.search(file[1])), None)
    if using is None:
        return []
    return [
        checks.Warning(
            f"The site has https, SECURE_PROXY_SSL_HEADER is not set, and {using[0]} uses WEBSOCKET_URI. Behind a proxy that "
            "ends TLS it begins with ws://, which browsers block on https pages.",
            hint="Set SECURE_PROXY_SSL_HEADER = ('HTTP_X_FORWARDED_PROTO', 'https'), and let the proxy set that header in "
            "each request. Silence this check if the WSGI server already tells Django of https, as gunicorn does for a "
            "proxy on the same machine.",
            id="ws4redis.W015",
        )
    ]


def _is_https() -> bool:
    """Return True if the settings say that browsers use https."""
    origins = [*django_settings.CSRF_TRUSTED_ORIGINS]
    return bool(
        django_settings.SESSION_COOKIE_SECURE
        or django_settings.CSRF_COOKIE_SECURE
        or any(str(origin).startswith("https://") for origin in origins)
    )


def _site_templates() -> Iterator[tuple[Path, str]]:
    for engine in engines.all():
        if isinstance(engine, DjangoTemplates):
            yield from _templates(engine)


def _templates(engine: DjangoTemplates) -> Iterator[tuple[Path, str]]:
    """Yield the templates of the site with their texts; those of installed packages are none of its business."""
    for folder in engine.template_dirs:
        if PACKAGES & set(Path(folder).parts):
            continue
        for file in islice(files_below(folder), MAX_TEMPLATES):
            try:
                if file.is_file() and file.stat().st_size <= MAX_BYTES:
                    yield file, file.read_text("utf-8")
            except (OSError, ValueError):
                continue


def files_below(folder: str | Path) -> Iterator[Path]:
    """Yield the files of a folder and its folders, without installed packages and hidden folders."""
    # A site may name its base directory, with an environment and node_modules; this runs before each command.
    for parent, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if name not in PACKAGES and not name.startswith(".")]
        yield from (Path(parent) / name for name in names)


def subscribed() -> Iterator[tuple[Path, int, str]]:
    """Yield the facilities that pages subscribe to, with file and line, as far as the address is a text."""
    for file, text in _site_templates():
        for found in ADDRESS.finditer(text):
            _, rest, continued = found.groups()
            name, _, query = rest.partition("?")
            if not continued and any(flag.startswith("subscribe-") for flag in _flags(query)):
                yield file, text.count("\n", 0, found.start()) + 1, unquote(name)


def _flags(query: str) -> set[str]:
    """Return the valid flags of a query, with the spelling that the gateway accepts."""
    names = {name.strip().lower() for name, _ in parse_qsl(query, keep_blank_values=True)}
    return names & FLAGS


def _silent_addresses(file: Path, text: str) -> Iterator[checks.CheckMessage]:
    for found in ADDRESS.finditer(text):
        _, rest, continued = found.groups()
        if continued or _flags(rest.partition("?")[2]):
            continue
        line = text.count("\n", 0, found.start()) + 1
        yield checks.Warning(
            f"{file}:{line} connects to {rest!r} without a valid flag; the socket opens and stays silent.",
            hint="Append for example ?subscribe-broadcast; the flags are subscribe-… and publish-… with broadcast, user, "
            "group or session.",
            id="ws4redis.W014",
        )
