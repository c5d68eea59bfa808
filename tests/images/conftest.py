"""The image of docs/deploy/container, built with a static program of tests/release, and containers of it.

buildah and podman run as root, with their storage below tests/.cache.
"""

import os
import pathlib
import platform
import resource
import subprocess

import pytest
import yaml

from harness import RedisServer

ROOT = pathlib.Path(__file__).parents[2]
DEPLOY = ROOT / "docs" / "deploy"
STORAGE = ROOT / "tests" / ".cache" / "containers"
MACHINE = {"x86_64": "amd64", "aarch64": "arm64"}[platform.machine()]
# The program, and the certificates.
PROGRAM = ROOT / "target" / "image" / MACHINE
# The other files.
RELEASE = pathlib.Path(os.environ.get("WS4REDIS_RELEASE", "dist")).absolute()
COMMAND_SECONDS = 120

GATEWAY = yaml.safe_load((DEPLOY / "compose" / "compose.yaml").read_text())["services"]["gateway"]


def engine(*words, check=True):
    """Run buildah or podman, and return the result with text."""
    program, *rest = map(str, words)
    storage = ["--root", STORAGE / "root", "--runroot", STORAGE / "run", "--storage-driver", "vfs"]
    # Not all machines have systemd's cgroups, and crun needs cgroups of version 2.
    runtime = ["--cgroup-manager", "cgroupfs", "--runtime", "runc"] if program == "podman" else []
    words = [program, *storage, *runtime, *rest]
    done = subprocess.run(words, capture_output=True, text=True, timeout=COMMAND_SECONDS, check=False)
    assert not check or done.returncode == 0, f"{words}: {done.stdout}{done.stderr}"
    return done


@pytest.fixture(scope="session")
def image():
    """Build the image, and return its name."""
    words = ["--isolation", "chroot", "--format", "docker", "--build-context", f"program={PROGRAM}"]
    engine("buildah", "build", *words, "--file", DEPLOY / "container" / "Dockerfile", "--tag", "ws4redis-test", ROOT)
    return "localhost/ws4redis-test"


@pytest.fixture
def store():
    """Start a Redis for one test."""
    server = RedisServer()
    yield server
    server.stop()


class Container:
    """A container with the rights of the compose file, on the network of this machine."""

    def __init__(self, image, *options):
        """Start it."""
        # A test may have fewer descriptors than the compose file asks for.
        _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
        files = min(GATEWAY["ulimits"]["nofile"], most)
        words = ["--detach", "--network", "host", "--ulimit", f"nofile={files}:{files}", "--ulimit", "nproc=1000:1000"]
        assert GATEWAY["read_only"]
        words += ["--read-only", "--read-only-tmpfs=false"]
        words += [f"--cap-drop={name}" for name in GATEWAY["cap_drop"]]
        # podman knows this option without its value.
        words += [f"--security-opt={option.removesuffix(':true')}" for option in GATEWAY["security_opt"]]
        words += [f"--tmpfs={path}" for path in GATEWAY["tmpfs"]]
        self.id = engine("podman", "run", *words, *options, image).stdout.strip()

    def inspect(self, form):
        """Return a value of the container's state."""
        return engine("podman", "inspect", "--format", form, self.id).stdout.strip()

    def pid(self):
        """Return the process ID of the gateway on this machine."""
        return self.inspect("{{.State.Pid}}")

    def run(self, *words):
        """Run a command in it, and return the result."""
        return engine("podman", "exec", self.id, *words, check=False)

    def logs(self):
        """Return what the gateway has logged."""
        done = engine("podman", "logs", self.id)
        return done.stdout + done.stderr

    def is_healthy(self):
        """Run the image's health check."""
        return engine("podman", "healthcheck", "run", self.id, check=False).returncode == 0

    def stop(self):
        """Stop it within the time of the compose file, and return its exit code."""
        engine("podman", "stop", "--time", GATEWAY["stop_grace_period"].removesuffix("s"), self.id)
        return int(self.inspect("{{.State.ExitCode}}"))

    def remove(self):
        """End it and remove its files."""
        engine("podman", "rm", "--force", "--time", "0", self.id, check=False)


@pytest.fixture
def start(image):
    """Return a function that starts containers."""
    started = []

    def start_container(*options):
        started.append(Container(image, *options))
        return started[-1]

    yield start_container
    for container in started:
        container.remove()
