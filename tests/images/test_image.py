"""The image is small, has few rights, and serves; its health check and its stop are right."""

import io
import os
import socket
import stat
import subprocess
import sys
import tarfile

import pytest
from conftest import COMMAND_SECONDS, DEPLOY, STORAGE, engine
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect, unix_connect

from harness import DEADLINE, free_port, until

MOST_BYTES = 40 << 20
"""A release has about 13 MB; other profiles have more."""


def status(pid):
    """Return what the kernel says of a process."""
    with open(f"/proc/{pid}/status") as lines:
        return dict(line.rstrip("\n").split(":\t", 1) for line in lines)


@pytest.fixture
def serving(start, store):
    """Return a ready container, with its port and its Redis."""
    port, admin = free_port(), free_port()
    variables = {
        "REDIS__URL": store.url,
        "SERVER__LISTEN": f"127.0.0.1:{port}",
        "SERVER__DRAIN_SECONDS": 1,
        "ADMIN__LISTEN": f"127.0.0.1:{admin}",
    }
    container = start(*(f"--env=WS4REDIS_{name}={value}" for name, value in variables.items()))
    until(container.is_healthy, True, "the health check")
    return container, port, store


def test_the_image_has_three_files(image):
    container = engine("podman", "create", image).stdout.strip()
    archive = STORAGE / "image.tar"
    engine("podman", "export", "--output", archive, container)
    engine("podman", "rm", container, check=False)
    with tarfile.open(fileobj=io.BytesIO(archive.read_bytes())) as files:
        sizes = {member.name: member.size for member in files if member.isfile()}
    archive.unlink()
    assert set(sizes) == {
        "usr/bin/ws4redis",
        "etc/ssl/certs/ca-certificates.crt",
        "etc/ws4redis/settings.toml",
    }
    assert sum(sizes.values()) < MOST_BYTES


def test_messages_arrive_and_the_process_has_no_rights(serving):
    container, port, store = serving
    with connect(f"ws://127.0.0.1:{port}/ws/x?subscribe-broadcast", proxy=None) as client:
        words = ["redis-cli", "-u", store.url, "publish", "broadcast:x", "Hello"]
        subprocess.run(words, check=True, capture_output=True, timeout=DEADLINE)
        assert client.recv(DEADLINE) == "Hello"
    facts = status(container.pid())
    assert facts["Uid"].split() == ["65532"] * 4 and facts["Gid"].split() == ["65532"] * 4
    assert int(facts["CapBnd"], 16) == 0 and int(facts["CapEff"], 16) == 0
    assert facts["NoNewPrivs"] == "1"


def test_the_health_check_follows_redis(serving):
    container, _, store = serving
    assert container.run("ws4redis", "health").stdout == "ready\n"
    store.process.terminate()
    until(container.is_healthy, False, "the health check without Redis")
    assert "Redis is not connected" in container.run("/usr/bin/ws4redis", "health").stderr
    assert container.run("/usr/bin/ws4redis", "health", "--live").stdout == "live\n"


def test_a_stop_closes_clients_with_1012_and_ends_well(serving):
    container, port, _ = serving
    with connect(f"ws://127.0.0.1:{port}/ws/x?subscribe-broadcast", proxy=None) as client:
        assert container.stop() == 0
        with pytest.raises(ConnectionClosed) as closed:
            client.recv(DEADLINE)
        assert closed.value.rcvd.code == 1012


def test_the_settings_of_the_compose_file_give_unix_sockets(start, store, tmp_path):
    sockets = tmp_path / "sockets"
    sockets.mkdir()
    # As the options of the volume say.
    os.chown(sockets, 65532, 65532)
    settings = DEPLOY / "compose" / "settings.toml"
    mounts = [f"--volume={settings}:/etc/ws4redis/settings.toml:ro", f"--volume={sockets}:/run/ws4redis"]
    container = start(*mounts, f"--env=WS4REDIS_REDIS__URL={store.url}")
    until(container.is_healthy, True, "the health check")
    admin = os.stat(f"/proc/{container.pid()}/root/run/admin/admin.sock")
    assert stat.S_ISSOCK(admin.st_mode) and stat.S_IMODE(admin.st_mode) == 0o600
    with unix_connect(str(sockets / "ws4redis.sock"), "ws://localhost/ws/x?subscribe-broadcast"):
        pass
    with socket.socket(socket.AF_UNIX) as other:
        # nginx's workers are another user.
        assert stat.S_IMODE((sockets / "ws4redis.sock").stat().st_mode) == 0o666
        other.settimeout(DEADLINE)
        other.connect(str(sockets / "ws4redis.sock"))


def test_the_compose_file_is_valid():
    program = STORAGE.parent / "go" / "cmd"
    if not program.exists():
        pytest.skip("no Go, so compose-go cannot be built")
    words = [program, "-no-interpolation", DEPLOY / "compose" / "compose.yaml"]
    done = subprocess.run(words, capture_output=True, text=True, timeout=COMMAND_SECONDS, check=False)
    assert done.returncode == 0 and "failed" not in done.stdout, done.stdout + done.stderr


@pytest.mark.parametrize("version", ["1.30", "1.37"])
def test_the_manifest_is_valid(version):
    words = ["kubernetes-validate", "--strict", "--kubernetes-version", version]
    path = f"{os.path.dirname(sys.executable)}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(
        [*words, DEPLOY / "kubernetes" / "ws4redis.yaml"],
        env=os.environ | {"PATH": path},
        capture_output=True,
        text=True,
        timeout=COMMAND_SECONDS,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
