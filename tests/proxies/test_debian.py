"""The files of the Debian package. Its own tests, in tests/deb, install it."""

import pathlib
import re
import subprocess
import tomllib

from reverse_proxies import DEPLOY

from harness import BINARY, DEADLINE

ROOT = DEPLOY.parents[1]
SETTINGS = DEPLOY / "debian" / "settings.toml"


def installed():
    """Return the paths that the package installs; a folder ends with a slash."""
    package = tomllib.loads((ROOT / "Cargo.toml").read_text())["package"]["metadata"]["deb"]
    for source, target, _ in package["assets"]:
        path = "/" + target
        if "*" in source:
            yield path
        elif path.endswith("/"):
            yield path + pathlib.PurePath(source).name
        else:
            yield path


def test_its_settings_name_only_files_of_the_package():
    paths = set(installed())
    folders = {f"{parent}/" for path in paths for parent in pathlib.PurePath(path).parents}
    named = re.findall(r"/usr/share/[\w./-]*[\w/]", SETTINGS.read_text())
    assert len(named) == 3
    assert set(named) <= paths | folders


def test_the_gateway_accepts_its_settings():
    words = [BINARY, "settings", "--changed", "--settings", SETTINGS]
    shown = subprocess.run(words, capture_output=True, text=True, timeout=DEADLINE, check=True).stdout
    assert "admin.listen" in shown and "anonymous_publish" in shown


def test_lines_of_shipped_files_fit_a_terminal_of_120_columns():
    units = [*DEPLOY.rglob("*.service"), *DEPLOY.rglob("*.socket"), *(DEPLOY / "debian").iterdir()]
    long = [line for path in units for line in path.read_text().splitlines() if len(line) > 120]
    assert long == []
