"""The content of the wheel, from a checkout and from an sdist, and of an editable install."""

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

import ws4redis

ROOT = Path(__file__).resolve().parents[2]
CLIENT = ("ws4redis.js", "ws4redis.mjs")


@pytest.fixture
def checkout(tmp_path):
    """A copy of the sources without build artefacts; a copy, because setuptools writes into its sources."""
    leave_out = shutil.ignore_patterns("build", "static", "*.egg-info", "__pycache__")
    shutil.copytree(ROOT / "python", tmp_path / "checkout" / "python", ignore=leave_out)
    (tmp_path / "checkout" / "static").mkdir()
    for name in CLIENT:
        shutil.copy(ROOT / "static" / name, tmp_path / "checkout" / "static")
    return tmp_path / "checkout"


def run(*command, **options):
    subprocess.run([sys.executable, *command], check=True, stdin=subprocess.DEVNULL, **options)


def wheel_of(source, folder):
    run("-m", "pip", "wheel", "-q", "--no-deps", "--wheel-dir", folder, source)
    (wheel,) = folder.glob("ws4redis-*-py3-none-any.whl")
    return zipfile.ZipFile(wheel)


def expect_client(archive):
    for name in CLIENT:
        assert archive.read(f"ws4redis/static/js/{name}") == (ROOT / "static" / name).read_bytes()


def test_the_wheel_has_the_package_the_script_and_the_types(tmp_path, checkout):
    here = checkout / "python" / "ws4redis"
    sources = [f"ws4redis/{path.relative_to(here)}" for path in here.rglob("*") if path.is_file()]
    with wheel_of(checkout / "python", tmp_path) as archive:
        names = [name for name in archive.namelist() if ".dist-info/" not in name]
        (metadata,) = [name for name in archive.namelist() if name.endswith("/METADATA")]
        about = archive.read(metadata).decode()
        expect_client(archive)
    assert sorted(names) == sorted(sources + [f"ws4redis/static/js/{name}" for name in CLIENT])
    assert "ws4redis/py.typed" in names
    assert not [name for name in names if "template" in name or "migrations" in name]
    needs = [line for line in about.splitlines() if line.startswith("Requires-Dist")]
    assert [need.split()[1].split(">")[0] for need in needs] == ["Django", "redis"]
    assert "License-Expression: MIT" in about


def test_the_wheel_with_the_gateway_has_the_same_metadata():
    tomllib = pytest.importorskip("tomllib")
    both = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    package = tomllib.loads((ROOT / "python" / "pyproject.toml").read_text())["project"]
    assert both.pop("readme") == f"python/{package.pop('readme')}"
    assert both == package
    gateway = tomllib.loads((ROOT / "Cargo.toml").read_text())["package"]
    # The version of the wheel is that of the gateway.
    assert gateway["version"] == ws4redis.__version__


BUILD_SDIST = "import setuptools.build_meta as backend, sys; print(backend.build_sdist(sys.argv[1]))"


def test_an_sdist_has_the_script_and_builds_without_the_checkout(tmp_path, checkout):
    run("-c", BUILD_SDIST, tmp_path, cwd=checkout / "python", stdout=subprocess.DEVNULL)
    shutil.rmtree(checkout)
    (sdist,) = tmp_path.glob("ws4redis-*.tar.gz")
    with wheel_of(sdist, tmp_path) as archive:
        expect_client(archive)


def test_a_wheel_without_the_script_is_not_built(tmp_path, checkout):
    shutil.rmtree(checkout / "static")
    build = [
        sys.executable,
        "-m",
        "pip",
        "wheel",
        "-q",
        "--no-deps",
        "--wheel-dir",
        tmp_path,
        checkout / "python",
    ]
    failed = subprocess.run(build, capture_output=True, text=True, stdin=subprocess.DEVNULL)
    assert failed.returncode != 0
    assert "ws4redis.js is missing" in failed.stderr


def test_an_editable_install_has_the_script(tmp_path, checkout):
    target = tmp_path / "site"
    run("-m", "pip", "install", "-q", "--no-deps", "--target", target, "-e", checkout / "python")
    find = "import site, sys; site.addsitedir(sys.argv[1]); import ws4redis; print(ws4redis.__file__)"
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    found = subprocess.run(
        [sys.executable, "-c", find, target],
        check=True,
        capture_output=True,
        text=True,
        env=environment,
        cwd=tmp_path,
    )
    package = Path(found.stdout.strip()).parent
    assert package == checkout / "python" / "ws4redis"
    for name in CLIENT:
        assert (package / "static" / "js" / name).read_bytes() == (ROOT / "static" / name).read_bytes()
