"""What is in the wheel."""

import subprocess
import sys
import zipfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def test_the_wheel_has_the_package_the_script_and_the_types(tmp_path):
    source = tmp_path / "python"
    # A copy: setuptools writes beside its sources.
    subprocess.run(["cp", "-r", ROOT / "python", source], check=True)
    for rest in ("build", "ws4redis.egg-info"):
        subprocess.run(["rm", "-rf", source / rest], check=True)
    subprocess.run(
        [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "--wheel-dir", tmp_path, source],
        check=True,
        stdin=subprocess.DEVNULL,
    )
    (wheel,) = tmp_path.glob("ws4redis-*-py3-none-any.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = [name for name in archive.namelist() if ".dist-info/" not in name]
        (metadata,) = [name for name in archive.namelist() if name.endswith("/METADATA")]
        about = archive.read(metadata).decode()
        scripts = {
            name: archive.read(f"ws4redis/static/js/{name}") for name in ("ws4redis.js", "ws4redis.mjs")
        }
    here = ROOT / "python" / "ws4redis"
    sources = [path for path in here.rglob("*") if path.is_file() and "__pycache__" not in path.parts]
    assert sorted(names) == sorted(f"ws4redis/{path.relative_to(here)}" for path in sources)
    assert "ws4redis/py.typed" in names
    assert not [name for name in names if "template" in name or "migrations" in name]
    assert scripts == {name: (ROOT / "static" / name).read_bytes() for name in scripts}
    needs = [line for line in about.splitlines() if line.startswith("Requires-Dist")]
    assert [need.split()[1].split(">")[0] for need in needs] == ["Django", "redis"]
    assert "License-Expression: MIT" in about
