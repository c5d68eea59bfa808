"""System checks of what django-websocket-redis leaves behind: its loops, its copies, and rules that no longer apply."""

from __future__ import annotations

import re
import sys
from importlib import metadata
from importlib.util import find_spec
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Final

from django.conf import settings as django_settings
from django.core import checks
from django.urls import URLPattern, URLResolver, get_resolver

from ws4redis import settings
from ws4redis.views import IdentityView

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from django.apps import AppConfig

HERE: Final = Path(__file__).resolve().parent
# Modules with the loops; the names of this package's stubs.
LOOPS: Final = re.compile(
    r"^\s*(?:from|import)\s+ws4redis\.(uwsgi_runserver|django_runserver|wsgi_server)\b", re.M
)
# Files that are read in one folder. A settings folder has fewer.
MAX_FILES: Final = 200
# Rules that ran in the loop, and what they have become.
RULES: Final = {
    "WS4REDIS_ALLOWED_CHANNELS": "allow",
    "WS4REDIS_PROCESS_REQUEST": "identify",
}
# Settings of the gateway that are rules. Any of them shows that somebody has thought about them.
GATEWAY_RULES: Final = {
    "WS4REDIS_ALLOWED_CHANNELS": ("access", "anonymous_publish"),
    "WS4REDIS_PROCESS_REQUEST": ("auth",),
}
# The same in a settings file; Python 3.9 cannot parse TOML.
GATEWAY_FILE_RULES: Final = {
    "WS4REDIS_ALLOWED_CHANNELS": re.compile(
        r"^\s*(?:\[\[\s*access\s*\]\]|access\s*=\s*\[\s*[^\]\s]|anonymous_publish\s*=\s*false)", re.M
    ),
    "WS4REDIS_PROCESS_REQUEST": re.compile(
        r"^\s*(?:auth\.)?(?:(?:jwt\.)?algorithm|callback_url)\s*=\s*[\"'][^\"']", re.M
    ),
}


# Django passes further keyword arguments to checks, and refuses checks without **kwargs.


def check_rules(app_configs: Sequence[AppConfig] | None, **kwargs: object) -> list[checks.CheckMessage]:
    """Return an error for each rule in Python that the gateway does not have."""
    return list(_lost_rules())


def _lost_rules() -> Iterator[checks.CheckMessage]:
    consequences = {
        "WS4REDIS_ALLOWED_CHANNELS": "every visitor may subscribe and publish",
        "WS4REDIS_PROCESS_REQUEST": "visitors are known by Django's session only",
    }
    for name, method in RULES.items():
        if not getattr(django_settings, name, None) or _has_rules(name):
            continue
        file = _file_with_rules(name)
        if file is None:
            text = f"{name} has no effect, since the gateway runs no Python; {consequences[name]}."
            hint = (
                'Translate it with "Access rules" in docs/django.md: into [[access]] tables of the gateway, '
                f"or into ws4redis.views.IdentityView.{method}. Then delete the setting."
            )
        else:
            text = (
                f"{name} has no effect, since the gateway runs no Python. {file} has rules, which a gateway applies that is "
                f"started with it; in those of manage.py runserver and manage.py ws4redis {consequences[name]}."
            )
            hint = f'Copy the rules into WS4REDIS_GATEWAY, as in "One place for both" in docs/django.md, and delete {name}.'
        yield checks.Error(text, hint=hint, id="ws4redis.E019")


def _has_rules(name: str) -> bool:
    gateway = getattr(django_settings, "WS4REDIS_GATEWAY", None)
    if isinstance(gateway, dict) and any(
        str(key).partition(".")[0] in GATEWAY_RULES[name] for key in gateway
    ):
        return True
    if not settings.WS4REDIS_CALLBACK_SECRET:
        return False
    method = RULES[name]
    return any(getattr(view, method) is not getattr(IdentityView, method) for view in _callback_views())


def _file_with_rules(name: str) -> Path | None:
    """Return the settings.toml of the project, if it has rules: where the gateway looks for it, or in BASE_DIR."""
    for folder in (Path.cwd(), getattr(django_settings, "BASE_DIR", None)):
        file = Path(folder or ".") / "settings.toml"
        try:
            if GATEWAY_FILE_RULES[name].search(file.read_text("utf-8")):
                return file
        except (OSError, ValueError):
            continue
    return None


def _callback_views() -> Iterator[type[IdentityView]]:
    """Yield the views of the URLconf that answer the gateway."""
    remaining: list[object] = [get_resolver()]
    while remaining:
        one = remaining.pop()
        if isinstance(one, URLResolver):
            remaining += one.url_patterns
        elif isinstance(one, URLPattern):
            view = getattr(one.callback, "view_class", None)
            if isinstance(view, type) and issubclass(view, IdentityView):
                yield view


def check_old_package(app_configs: Sequence[AppConfig] | None, **kwargs: object) -> list[checks.CheckMessage]:
    """Return what is left of django-websocket-redis: the package, copies of it, and its loops."""
    return [*_distribution(), *_loops(), *_copies()]


def _distribution() -> Iterator[checks.CheckMessage]:
    if is_installed("django-websocket-redis"):
        yield checks.Error(
            "django-websocket-redis is installed as well; both packages use the directory ws4redis.",
            hint="pip uninstall django-websocket-redis, then install this package again "
            "(pip install --force-reinstall --no-deps), and remove it from the requirements.",
            id="ws4redis.E011",
        )


def _loops() -> Iterator[checks.CheckMessage]:
    application = getattr(django_settings, "WSGI_APPLICATION", None)
    if isinstance(application, str) and application.startswith("ws4redis."):
        yield checks.Warning(
            f"WSGI_APPLICATION is {application!r}, the server of django-websocket-redis, which has no WebSockets any more.",
            hint="Restore the site's own, for example 'mysite.wsgi.application'; the gateway is a separate process.",
            id="ws4redis.W010",
        )
    for file in _files_of_site():
        try:
            text = file.read_text("utf-8")
        except (OSError, ValueError):
            continue
        found = LOOPS.search(text)
        if found is not None:
            line = text.count("\n", 0, found.start(1)) + 1
            yield checks.Warning(
                f"{file}:{line} imports ws4redis.{found[1]}, a server of django-websocket-redis, which has no "
                "WebSockets any more.",
                hint="Let wsgi.py end with application = get_wsgi_application(), and delete a wsgi_websocket.py.",
                id="ws4redis.W011",
            )


def _files_of_site() -> Iterator[Path]:
    """Yield the Python files where a site has its wsgi.py: in its folder, and next to manage.py."""
    folders = {Path(name).resolve() for name in [getattr(django_settings, "BASE_DIR", None)] if name}
    for folder in sorted((folders | project_folders()) - {HERE}):
        yield from islice(sorted(folder.glob("*.py")), MAX_FILES)


def project_folders() -> set[Path]:
    """Return the folders of the packages that the settings name: the one of `django-admin startproject`."""
    folders: set[Path] = set()
    for setting in ("SETTINGS_MODULE", "ROOT_URLCONF", "WSGI_APPLICATION"):
        module = str(getattr(django_settings, setting, None) or "").partition(".")[0]
        folders |= _folders_of(module)
    return folders


def _folders_of(module: str) -> set[Path]:
    try:
        spec = find_spec(module) if module else None
    except (ImportError, ValueError):
        return set()
    return {Path(folder).resolve() for folder in (spec and spec.submodule_search_locations) or ()}


def _copies() -> Iterator[checks.CheckMessage]:
    folders = {Path(entry or ".").resolve() / "ws4redis" for entry in sys.path}
    for name in django_settings.INSTALLED_APPS:
        if ".ws4redis" in name:
            folders |= _folders_of_app(name)
    for folder in sorted(folders - {HERE}):
        # Not any folder of that name: sites call their own so.
        if (folder / "redis_store.py").is_file() and (folder / "publisher.py").is_file():
            yield checks.Warning(
                f"{folder} is a copy of django-websocket-redis; code that imports it has not moved.",
                hint=f"Delete it, and import ws4redis of the installed package ({HERE}).",
                id="ws4redis.W012",
            )


def _folders_of_app(name: str) -> set[Path]:
    try:
        spec = find_spec(name)
    except (ImportError, ValueError):
        return set()
    return {Path(folder).resolve() for folder in (spec and spec.submodule_search_locations) or ()}


def is_installed(distribution: str) -> bool:
    """Return True if pip has installed a distribution."""
    try:
        metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return False
    return True
