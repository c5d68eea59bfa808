"""Facilities that the sources of a site name in texts: those that it publishes to, and those that its pages subscribe to.

For `manage.py ws4redis_doctor`, which asks the gateways whether their `[[access]]` rules let anybody hear them. A name that
is computed is left out.
"""

from __future__ import annotations

import ast
import warnings
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Final

from django.apps import apps

from ws4redis import leftovers, pages

if TYPE_CHECKING:
    from collections.abc import Iterator

# Functions of ws4redis.html whose first argument is a facility.
PUBLISHING: Final = frozenset(
    f"{prefix}publish_{kind}{end}"
    for kind in ("html", "event")
    for prefix, end in (("", ""), ("a", ""), ("", "_on_commit"))
)
# Arguments that are audiences, or `**` with one.
AUDIENCES: Final = frozenset({"broadcast", "groups", "users", "sessions", None})
# Tests have facilities of their own, and migrations none.
OTHER_FOLDERS: Final = frozenset({"migrations", "tests"})
MAX_FILES: Final = 5_000
MAX_BYTES: Final = 1 << 20


def named() -> dict[str, str]:
    """Return each facility with the place that names it, as in `chat/views.py:12 publishes`."""
    found: dict[str, str] = {}
    for file, text in _sources():
        # Parsing takes most of the time.
        if "ws4redis" in text:
            for name, line in published(text):
                found.setdefault(name, f"{file}:{line} publishes")
    for file, line, name in pages.subscribed():
        found.setdefault(name, f"{file}:{line} subscribes")
    return found


def published(text: str) -> Iterator[tuple[str, int]]:
    """Yield the facilities that a module publishes to, with their lines. A module with an error has none."""
    try:
        with warnings.catch_warnings():
            # They are about the site's code, not about its facilities.
            warnings.simplefilter("ignore")
            tree = ast.parse(text)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            facility = _facility_of(node)
            if isinstance(facility, ast.Constant) and isinstance(facility.value, str):
                yield facility.value, node.lineno


def _facility_of(call: ast.Call) -> ast.expr | None:
    name = getattr(call.func, "id", None) or getattr(call.func, "attr", None)
    keywords = {keyword.arg: keyword.value for keyword in call.keywords}
    if name == "RedisPublisher":
        # Without an audience it only reads.
        return keywords.get("facility") if AUDIENCES & keywords.keys() else None
    if name in PUBLISHING:
        return call.args[0] if call.args else keywords.get("facility")
    return None


def _sources() -> Iterator[tuple[Path, str]]:
    """Yield the modules of the site's apps and of the folder with its URLconf, without installed packages."""
    folders = {Path(config.path).resolve() for config in apps.get_app_configs()} | leftovers.project_folders()
    own = (folder for folder in sorted(folders) if folder != leftovers.HERE)
    seen: set[Path] = set()
    for folder in own:
        if pages.PACKAGES & set(folder.parts):
            continue
        for file in islice(pages.files_below(folder), MAX_FILES):
            if file in seen or not _is_of_site(file.relative_to(folder)):
                continue
            seen.add(file)
            try:
                if file.stat().st_size <= MAX_BYTES:
                    yield file, file.read_text("utf-8")
            except (OSError, ValueError):
                continue


def _is_of_site(path: Path) -> bool:
    return path.suffix == ".py" and not path.name.startswith("test") and not OTHER_FOLDERS & set(path.parts)
