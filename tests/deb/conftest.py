"""A Debian system with systemd in a container, in which the package is installed."""

import contextlib
import os
import pathlib
import shutil
import subprocess
import time

import pytest

PACKAGES = pathlib.Path(os.environ.get("WS4REDIS_DEBS", "dist")).absolute()
CACHE = pathlib.Path(__file__).parents[1] / ".cache"

SUITE = "bookworm"
INCLUDED = "systemd,systemd-sysv,dbus,adduser,redis-server,python3-websockets,man-db,bash-completion"

BOOT_SECONDS = 120
COMMAND_SECONDS = 120


def system_root():
    """Create the files of a Debian system once, and return their folder."""
    root = CACHE / f"debian-{SUITE}"
    if not (root / "complete").exists():
        shutil.rmtree(root, ignore_errors=True)
        CACHE.mkdir(exist_ok=True)
        words = ["debootstrap", "--variant=minbase", f"--include={INCLUDED}", SUITE, root]
        subprocess.run(words, check=True, capture_output=True, timeout=1200)
        (root / "complete").touch()
    return root


class Container:
    """A booted system; changes of its files are lost at its end."""

    def __init__(self, leader):
        """Keep the process ID of its systemd."""
        self.leader = leader

    def entered(self, words):
        """Return the words of a command that runs a command inside."""
        return ["nsenter", "--target", str(self.leader), "--all", "--", *map(str, words)]

    def run(self, *words, check=True, **options):
        """Run a command inside, and return its result with text."""
        options = {"capture_output": True, "text": True, "timeout": COMMAND_SECONDS, **options}
        done = subprocess.run(self.entered(words), check=False, **options)
        assert not check or done.returncode == 0, f"{words}: {done.stdout}{done.stderr}"
        return done

    def output(self, *words):
        """Run a command inside that has to succeed, and return its output without the last newline."""
        return self.run(*words).stdout.rstrip("\n")

    def start(self, *words):
        """Start a command inside, and return the process."""
        pipe = subprocess.PIPE
        return subprocess.Popen(self.entered(words), stdin=pipe, stdout=pipe, text=True)

    def state(self):
        """Return the state of the gateway's service."""
        return self.run("systemctl", "is-active", "ws4redis", check=False).stdout.strip()

    def add(self, path):
        """Copy a file of this machine into /mnt, and return its path there."""
        target = f"/mnt/{path.name}"
        self.run("dd", f"of={target}", "status=none", input=path.read_bytes(), text=False)
        return target


@pytest.fixture(scope="module")
def container(tmp_path_factory):
    """Boot a system, and stop it at the end."""
    log = tmp_path_factory.mktemp("container") / "log"
    words = [
        "systemd-nspawn",
        "--directory",
        system_root(),
        "--volatile=overlay",
        "--register=no",
        "--keep-unit",
    ]
    words += ["--private-network", "--console=pipe", "--boot", "--quiet"]
    with log.open("wb") as output:
        nspawn = subprocess.Popen(words, stdin=subprocess.DEVNULL, stdout=output, stderr=output)
    try:
        yield Container(booted(nspawn, log))
    finally:
        nspawn.kill()
        nspawn.wait(30)


def is_in_a_container(leader):
    """Return whether a process has process IDs of its own: until nspawn has made them, it would be this machine's systemd."""
    with contextlib.suppress(OSError):
        return os.readlink(f"/proc/{leader}/ns/pid") != os.readlink("/proc/self/ns/pid")
    return False


def booted(nspawn, log):
    """Return the process ID of systemd once all services have started."""
    end = time.monotonic() + BOOT_SECONDS
    while time.monotonic() < end:
        children = pathlib.Path(f"/proc/{nspawn.pid}/task/{nspawn.pid}/children").read_text().split()
        with contextlib.suppress(subprocess.SubprocessError):
            for leader in filter(is_in_a_container, children):
                done = Container(leader).run(
                    "systemctl", "is-system-running", "--wait", check=False, timeout=30
                )
                if done.stdout.strip() in ("running", "degraded"):
                    return leader
        assert nspawn.poll() is None, log.read_text(errors="replace")
        time.sleep(0.2)
    raise AssertionError(f"the container has not booted: {log.read_text(errors='replace')}")
