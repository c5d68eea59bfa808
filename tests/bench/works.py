"""The works: what the generator does to a server, and how one measurement is taken."""

import json
import subprocess

from servers import SESSION, TOOLS, write_sessions

FANOUT = ["fanout", "--size", "128"]
WORKS = {
    "F1": [*FANOUT, "--conns", "1000", "--window", "64"],
    "F1w1": [*FANOUT, "--conns", "1000", "--window", "1"],
    "F2r": [*FANOUT, "--conns", "10000", "--rate", "10"],
    "F2m": [*FANOUT, "--conns", "10000", "--window", "16"],
    "F3": ["fanout", "--conns", "1000", "--size", "16384", "--window", "8"],
    "F4": [*FANOUT, "--conns", "1000", "--rate", "1000"],
    "U1": ["users", "--users", "5000", "--per-user", "1", "--window", "256"],
    "P1": ["upstream", "--conns", "500", "--window", "500"],
    "P1e": ["upstream", "--conns", "500", "--window", "500"],
    "C1": ["churn", "--conns", "64"],
    "C1s": ["churn", "--conns", "64"],
    "I1": ["idle", "--conns", "10000"],
    "I1p": ["idle", "--conns", "10000"],
    "I1s": ["idle", "--conns", "10000"],
}
# Works in which each visitor has a session in Redis.
SESSIONS = {"U1": 5000, "C1s": 64, "I1s": 10000}
# What is on besides: messages are kept for an hour; pings come soon, so that each connection has answered one.
ENVIRONMENT = {
    "P1e": {"WS4REDIS_EXPIRE": "3600", "EXPIRE": "3600"},
    "I1p": {"WS4REDIS_PING__INTERVAL_SECONDS": "5"},
    "I1s": {"WS4REDIS_PING__INTERVAL_SECONDS": "5"},
}
HOLD = {"I1": 2, "I1p": 12, "I1s": 12}
ERRORS = ("lost", "duplicated", "out_of_order", "misdelivered", "died", "failed", "stalled")


class Failed(Exception):
    """A server could not do the work; the text says why."""


def measure(work, server, redis, redis_pid, secs=5, extra=()):
    """Starts the server, lets the generator do the work against it, and gives the generator's numbers."""
    if work in SESSIONS:
        write_sessions(redis, SESSIONS[work])
    arguments = [*WORKS[work], *extra]
    kind = arguments[0]
    path = {"users": server.user, "upstream": server.publish}.get(kind, server.subscribe)
    if work == "I1s":
        path = "/ws/fac?subscribe-user&subscribe-group&subscribe-broadcast"
    with server.running(redis, **ENVIRONMENT.get(work, {})):
        arguments += ["--url", server.url(path)]
        if work in SESSIONS:
            arguments += ["--header", f"Cookie: sessionid={SESSION}{'{u8}' if work == 'U1' else '{i8}'}"]
        if kind in ("fanout", "churn"):
            arguments += ["--pub", server.fill(server.pub)]
        if kind == "users":
            arguments += ["--pub", server.fill(server.pub_user)]
        if kind == "upstream":
            arguments += ["--sub", server.fill(server.pub)]
        arguments += ["--hold", str(HOLD[work])] if kind == "idle" else ["--secs", str(secs)]
        command = ["taskset", "-c", "1", TOOLS / "wsload", *arguments, "--pid", server.pid, "--redis-pid", redis_pid, "--core", "0", "--json"]
        done = subprocess.run([str(word) for word in command], capture_output=True, text=True, timeout=180)
    lines = [line for line in done.stdout.splitlines() if line.startswith("{")]
    if done.returncode or not lines:
        raise Failed(f"{work} of {server.name}: {done.stdout}{done.stderr}")
    result = json.loads(lines[-1])
    result["errors"] = {key: result[key] for key in ERRORS if result.get(key)}
    return result
