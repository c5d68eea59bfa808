"""Find the gateway's binary, which a wheel installs next to Python, and run it with settings that Django derives."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path
from typing import Final

from ws4redis import settings

NAME: Final = "ws4redis"
HOW_TO_GET_IT: Final = (
    "Install a wheel that contains it (pip install --only-binary :all: ws4redis, on Linux), or build it: "
    "cargo install --locked --path . in a checkout of the gateway. It is searched next to this Python, on PATH, and at "
    "the setting WS4REDIS_BINARY."
)


class BinaryNotFound(Exception):
    """There is no binary of the gateway. The text says how to get one."""


def find() -> Path:
    """Return the path of the gateway's binary: `WS4REDIS_BINARY`, next to Python, or on PATH.

    Raises:
        BinaryNotFound: There is none.
    """
    chosen = settings.WS4REDIS_BINARY
    if chosen:
        path = Path(os.path.expanduser(chosen))
        if not os.access(path, os.X_OK) or path.is_dir():
            raise BinaryNotFound(f"WS4REDIS_BINARY is {str(path)!r}, which is no program.")
        return path
    # The script directory is another one with `pip install --user`.
    folders = [Path(sys.executable).parent, Path(sysconfig.get_path("scripts"))]
    for folder in folders:
        path = folder / NAME
        if path.is_file() and os.access(path, os.X_OK):
            return path
    found = shutil.which(NAME)
    if found is None:
        raise BinaryNotFound(f"There is no program {NAME}, the gateway. {HOW_TO_GET_IT}")
    return Path(found)


def version_of(path: Path) -> str | None:
    """Return the version of a binary, or None if it does not run here."""
    try:
        done = subprocess.run(
            [path, "--version"],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=10,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    name, _, version = done.stdout.strip().partition(" ")
    return version if done.returncode == 0 and name == NAME else None


def settings_pipe(text: str) -> int:
    """Return a descriptor from which the binary reads a settings file, as `--settings /dev/fd/N`; no file has the secrets.

    Raises:
        ValueError: The text is longer than a pipe takes at once.
    """
    data = text.encode()
    reading, writing = os.pipe()
    try:
        os.set_blocking(writing, False)
        if os.write(writing, data) < len(data):
            raise ValueError("the settings of the gateway are too long")
    except BaseException:
        os.close(reading)
        raise
    finally:
        os.close(writing)
    return reading
