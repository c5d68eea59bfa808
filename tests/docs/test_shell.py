"""The shell commands of the documents, with the tests' builds, addresses and directories."""

import os
import re
import shlex
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest
from documents import ROOT, shows
from harness import (
    BINARY,
    DEADLINE,
    EMBEDDED_PORT,
    Client,
    accepts,
    clean_environment,
    embedded_port,
    free_port,
    until,
)

from wire import Program

BUILD_SECONDS = 300
PACKAGES = Path(sysconfig.get_path("purelib"))
# Contains django-websocket-redis.
UPSTREAM = ROOT / "tests/.cache/venv/lib"


def bash(command, home, seconds=60, **environment):
    """Runs the command to its end; returns its output."""
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", command],
        cwd=home,
        env=clean_environment(**environment),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=seconds,
        check=False,
    )
    assert done.returncode == 0, f"{command}\n{done.stdout}"
    return done.stdout


@pytest.fixture
def commands(tmp_path):
    """A PATH with the built `ws4redis`, and the Python of the tests as `python`."""
    bin = tmp_path / "bin"
    bin.mkdir()
    (bin / "ws4redis").symlink_to(BINARY)
    (bin / "python").write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} "$@"\n')
    (bin / "python").chmod(0o755)
    return f"{bin}{os.pathsep}{os.environ['PATH']}"


# Replaces the release build, which takes minutes, by the existing debug build.
DEBUG = 'cargo() { command cargo "${@/--release/--locked}"; }; '


@shows("README.md", "Try it", 1, 2)
def test_try_it(blocks, commands):
    run, publish = blocks
    port = free_port()
    with embedded_port():
        server = Program(
            ["bash", "-c", DEBUG + run.code], ROOT, WS4REDIS_SERVER__LISTEN=f"127.0.0.1:{port}", HOME=os.environ["HOME"]
        )
        try:
            address = server.expect(rf"\S*127\.0\.0\.1:{port}\S*", BUILD_SECONDS)[0]
            server.expect("redis connected")
            assert "ws4redis" in bash(f"curl -sSf --noproxy '*' {shlex.quote(address)}", ROOT)
            with Client(f"ws://127.0.0.1:{port}/ws/foobar?subscribe-broadcast") as client:
                assert bash(publish.code, ROOT) == "1\n"
                client.expect("Hello")
        finally:
            server.stop()
            until(lambda: accepts(EMBEDDED_PORT), False, "the end of the store")


@shows("README.md", "Tests and contributing", checked="these tests are a part of it")
def test_the_tests_have_a_usage(blocks):
    assert "docs" in bash(f"{blocks[0].code.strip()} --help", ROOT)


@shows("README.md", "Install", 1)
def test_building_and_installing(blocks, tmp_path):
    bin = tmp_path / "bin"
    bin.mkdir()
    words = {"sudo ": "", "target/release/ws4redis": BINARY, "/usr/local/bin/": f"{bin}/"}
    bash(DEBUG + blocks[0].filled(words), ROOT, BUILD_SECONDS)
    path = f"{bin}{os.pathsep}{os.environ['PATH']}"
    assert bash("command -v ws4redis", tmp_path, PATH=path) == f"{bin}/ws4redis\n"
    assert bash("ws4redis --version", tmp_path, PATH=path).startswith("ws4redis ")


@shows("docs/commands.md", "publish")
def test_publishing_from_a_shell(blocks, commands, gateway, store, tmp_path):
    with gateway().connect("foobar") as client:
        printed = bash(blocks[0].code, tmp_path, PATH=commands, WS4REDIS_REDIS__URL=store.url)
        assert printed == "published to 1 channel, 1 subscribed in Redis\n"
        client.expect("Hello")


@pytest.fixture
def fresh(tmp_path, commands):
    """A virtual environment with the package's dependencies but not the package, and a copy of the sources."""
    home, checkout = tmp_path / "venv", tmp_path / "checkout"
    bash(f"python -m venv --without-pip {home}", tmp_path, PATH=commands)
    (packages,) = home.glob("lib/python*/site-packages")
    (packages / "tests.pth").write_text(str(PACKAGES))
    (home / "bin/pip").write_text(f'#!/bin/sh\nexec {home}/bin/python -m pip "$@"\n')
    (home / "bin/pip").chmod(0o755)
    # setuptools writes into the source folder.
    shutil.copytree(ROOT / "python", checkout / "python", ignore=shutil.ignore_patterns("build", "*.egg-info"))
    # The build copies the client from this folder.
    (checkout / "static").mkdir()
    for name in ("ws4redis.js", "ws4redis.mjs"):
        shutil.copy(ROOT / "static" / name, checkout / "static")
    path = f"{home}/bin{os.pathsep}{commands}"

    def run(command, **environment):
        # The build tools are installed already.
        return bash(command, checkout, PATH=path, PIP_NO_BUILD_ISOLATION=0, PIP_NO_INDEX=1, PIP_YES=1, **environment)

    run.path, run.checkout, run.packages = path, checkout, packages
    return run


def expect_installed(fresh):
    assert fresh("python -c 'import ws4redis; print(ws4redis.__file__)'") == f"{fresh.packages}/ws4redis/__init__.py\n"
    assert "Name: ws4redis\n" in fresh("pip show ws4redis")


@shows("python/README.md", "ws4redis for Django", 2)
def test_installing_the_package(blocks, fresh):
    fresh(blocks[0].code.strip())
    expect_installed(fresh)


@shows("docs/django.md", "Moving from django-websocket-redis")
def test_moving(blocks, fresh):
    for part in ("ws4redis", "django_websocket_redis-*"):
        (found,) = UPSTREAM.glob(f"python*/site-packages/{part}")
        shutil.copytree(found, fresh.packages / found.name)
    assert "Version: 0.6" in fresh("pip show django-websocket-redis")
    # The name on the index is not ours yet.
    fresh(blocks[0].filled({"pip install ws4redis": "pip install ./python"}))
    expect_installed(fresh)
    assert not list(fresh.packages.glob("django_websocket_redis*"))
    assert "gateway" in (fresh.packages / "ws4redis/wsgi_server.py").read_text(), "a file of django-websocket-redis"


@shows("tests/django/README.md", "A site for tests")
def test_the_site_for_tests(blocks, commands, store, tmp_path):
    port = free_port()
    command = blocks[0].filled({"127.0.0.1:8001": f"--noreload 127.0.0.1:{port}"})
    variables = {"SITE_REDIS": store.url, "SITE_DATABASE": tmp_path / "site.sqlite3", "PYTHONPATH": ROOT / "python"}
    site = Program(["bash", "-ec", command], ROOT / "tests/django", PATH=commands, **variables)
    try:
        site.expect(f"http://127.0.0.1:{port}/", 3 * DEADLINE)
        until(lambda: accepts(port), True, "the site")
        curl = f"curl -sS --noproxy '*' http://127.0.0.1:{port}"
        assert bash(f"{curl}/", tmp_path) == '{"user": "", "session": null}'
        assert "<option>mary</option>" in bash(f"{curl}/userchat/", tmp_path)
    finally:
        site.stop()


@shows("docs/releasing.md", "Releasing", checked="this machine may have no Docker; ./tests/run images builds with buildah")
def test_the_images_of_a_release_are_built_with_files_that_exist(blocks):
    usage = bash("tests/release --help", ROOT)
    assert "static, deb, wheels, sbom, checksums" in usage and "target/image/" in usage
    for line in blocks[0].code.splitlines():
        words = shlex.split(line)
        assert (ROOT / words[words.index("-f") + 1]).is_file()
        machine = words[words.index("--platform") + 1].partition("/")[2]
        assert words[words.index("--build-context") + 1] == f"program=target/image/{machine}"


@shows("docs/wheels.md", "Build")
def test_the_wheels_have_a_usage(blocks):
    assert "x86_64-unknown-linux-gnu" in bash("cat tests/wheels", ROOT)
    assert "TARGET" in bash(blocks[0].code, ROOT)


@shows("tests/fuzz/README.md", "Fuzz targets", checked="fuzzing needs a nightly Rust, and has no end")
def test_fuzzing_is_written_in_bash_and_names_all_targets(blocks):
    code = blocks[0].code
    bash(f"bash -n <<'END'\n{code}END", ROOT)
    targets = re.search(r"for target in (.*); do", code)[1].split()
    named = re.findall(r'(?s)\[\[bin\]\]\s*name = "(\w+)"', (ROOT / "tests/fuzz/Cargo.toml").read_text())
    assert sorted(targets) == sorted(named)
    assert os.access(ROOT / "tests/fuzz/seed", os.X_OK)


@shows("tests/bench/wsload/README.md", "wsload and floor", checked="a measurement needs the whole machine")
def test_the_load_generator_has_these_options(blocks):
    words = shlex.split(blocks[0].code.replace("\\\n", " "))
    assert words[:5] == ["taskset", "-c", "1", "wsload", "fanout"]
    source = "".join(path.read_text() for path in (ROOT / "tests/bench/wsload/src").glob("*.rs"))
    options = [word.removeprefix("--") for word in words if word.startswith("--")]
    assert len(options) > 5
    assert [option for option in options if f'"{option}"' not in source] == []


@shows("docs/performance.md", "Run it yourself", checked="a measurement needs the whole machine")
def test_the_measurement_has_these_options(blocks):
    lines = [line.split("  ")[0].split() for line in blocks[0].code.splitlines()]
    assert len(lines) == 3
    assert {words[0] for words in lines} == {"tests/bench/run"}
    assert os.access(ROOT / "tests/bench/run", os.X_OK)
    source = (ROOT / "tests/bench/measure.py").read_text()
    assert [words[1] for words in lines[1:] if f'add_argument("{words[1]}"' not in source] == []


@shows("README.md", "ws4redis", checked="a diagram")
@shows("docs/architecture.md", "Architecture", checked="a diagram")
def test_the_diagram_is_the_same_everywhere(blocks):
    assert blocks[0].code == blocks[1].code


@shows("docs/architecture.md", "Code map", checked="a diagram")
def test_the_code_map_has_every_module(blocks):
    named = re.findall(r"(?m)^( *)([\w./]+)  ", blocks[0].code)
    paths = [f"src/{name}" if indent else name for indent, name in named]
    assert len(paths) > 15
    assert [path for path in paths if not (ROOT / path).exists()] == []
    modules = {path.name for path in (ROOT / "src").iterdir()} - {"lib.rs"}
    assert modules - {Path(path).name for path in paths} == set()
