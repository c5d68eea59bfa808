"""The part of the build that pyproject.toml cannot declare: the package takes its copy of the browser client."""

import os
import tempfile
from pathlib import Path

HERE = Path(__file__).resolve().parent
SOURCE = HERE.parent / "static"
TARGET = HERE / "ws4redis" / "static" / "js"


def copy_client() -> None:
    """Copy ws4redis.js and ws4redis.mjs from the checkout to where Django finds static files of the package.

    An sdist has them already.
    """
    for name in ("ws4redis.js", "ws4redis.mjs"):
        source, target = SOURCE / name, TARGET / name
        if not source.exists():
            if target.exists():
                continue
            raise SystemExit(f"{source} is missing; build from a checkout of the gateway or from an sdist")
        content = source.read_bytes()
        if target.exists() and target.read_bytes() == content:
            continue
        TARGET.mkdir(parents=True, exist_ok=True)
        # Replaced as a whole, since tests run in parallel.
        handle, temporary = tempfile.mkstemp(dir=TARGET.parent)
        with os.fdopen(handle, "wb") as file:
            file.write(content)
        os.chmod(temporary, 0o644)
        os.replace(temporary, target)


if __name__ == "__main__":
    from setuptools import setup

    copy_client()
    setup()
