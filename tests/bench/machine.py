"""The machine and the versions of a measurement."""

import datetime
import json
import os
import platform
import re
import subprocess
import sys

from servers import BUN, CENTRIFUGO, HERE, ROOT


def version_of(*command, pattern=r"(\S.*)"):
    """Returns the version that a command prints on standard output or error."""
    try:
        done = subprocess.run([str(word) for word in command], capture_output=True, text=True, timeout=20, cwd=ROOT)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    found = re.search(pattern, done.stdout + done.stderr)
    return found.group(1).strip() if found and not done.returncode else ""


def processor():
    with open("/proc/cpuinfo") as lines:
        for line in lines:
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.machine()


def mebibytes():
    with open("/proc/meminfo") as lines:
        return int(next(lines).split()[1]) // 1024


def packages(peer):
    lock = json.loads((HERE / f"peers/{peer}/package-lock.json").read_text())["packages"]
    named = lock[""]["dependencies"]
    return ", ".join(f"{name} {lock[f'node_modules/{name}']['version']}" for name in named)


def pinned(file, name):
    """Returns the version that a list of dependencies pins."""
    lines = (HERE / "peers" / file).read_text().splitlines()
    return next(line.rpartition("=")[2].strip('"') for line in lines if line.startswith(name))


def versions(binary):
    commit = version_of("git", "rev-parse", "--short=12", "HEAD") or "unknown"
    changed = ", with changes" if version_of("git", "status", "--porcelain", "--untracked-files=no", "src", "Cargo.toml", "Cargo.lock") else ""
    nchan = version_of("dpkg-query", "-W", "-f", "${Version}", "libnginx-mod-nchan")
    found = {
        "ws4redis": f"{version_of(binary, '--version', pattern=r'ws4redis (.+)')} ({'a given binary' if 'BENCH_BINARY' in os.environ else f'commit {commit}{changed}'})",
        "Rust": version_of("rustc", "--version", pattern=r"rustc (\S+)"),
        "Redis": version_of("redis-server", "--version", pattern=r"v=(\S+)"),
        "Bun": version_of(BUN, "--version"),
        "node": f"{version_of('node', '--version')}, {packages('node')}, {packages('socket.io').partition(', ')[2]}",
        "socketioxide": pinned("socketioxide/Cargo.toml", "socketioxide"),
        "python-socketio": pinned("python-socketio/requirements.txt", "python-socketio"),
        "nginx": f"{version_of('nginx', '-v', pattern=r'nginx/(.+)')}, nchan {nchan}" if nchan else "",
        # A local build reports 0.0.0, so the version comes from Go's module data.
        "Centrifugo": version_of("go", "version", "-m", CENTRIFUGO, pattern=r"\smod\s+\S+\s+(\S+)"),
        "Python": platform.python_version(),
    }
    return {name: version for name, version in found.items() if version}


def facts(binary):
    return {
        "date": datetime.date.today().isoformat(),
        "processor": processor(),
        "cores": os.cpu_count(),
        "memory_mib": mebibytes(),
        "kernel": f"{platform.system()} {platform.release()}",
        "virtual": version_of("systemd-detect-virt") or ("yes" if "hypervisor" in open("/proc/cpuinfo").read() else "no"),
        "load": os.getloadavg()[0],
        "versions": versions(binary),
        "command": " ".join(["tests/bench/run", *sys.argv[1:]]),
    }
