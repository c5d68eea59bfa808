"""The workloads of the generator, and one measurement."""

import contextlib
import dataclasses
import json
import subprocess

from servers import HERE, SESSION, TOOLS, Failed, write_sessions

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
    "P1h": ["upstream", "--conns", "500", "--window", "500"],
    "C1": ["churn", "--conns", "64"],
    "C1s": ["churn", "--conns", "64"],
    "I1": ["idle", "--conns", "10000"],
    "I1p": ["idle", "--conns", "10000"],
    "I1s": ["idle", "--conns", "10000"],
    "S1": [*FANOUT, "--conns", "1000", "--window", "64"],
    "S1w1": [*FANOUT, "--conns", "1000", "--window", "1"],
    "S1r": [*FANOUT, "--conns", "1000", "--window", "64"],
    "SU": ["users", "--users", "5000", "--per-user", "1", "--window", "256"],
    "SI": ["idle", "--conns", "10000"],
}
WHAT = {
    "F1": "1,000 connections receive messages of 128 bytes, 64 messages in flight",
    "F1w1": "the same, one message in flight: no batching is possible",
    "F2r": "10,000 connections receive 10 messages of 128 bytes per second",
    "F2m": "10,000 connections receive messages of 128 bytes, 16 in flight",
    "F3": "1,000 connections receive messages of 16 KiB, 8 in flight",
    "F4": "1,000 connections receive 1,000 messages of 128 bytes per second: an offered load of a million deliveries per second",
    "U1": "5,000 users, each with a session in Redis and their own channel; 256 messages in flight to random users",
    "P1": "500 connections publish messages of 128 bytes, 500 in flight; a Redis subscriber counts them",
    "P1e": "the same, and Redis keeps each message for an hour (SETEX and PUBLISH)",
    "P1h": "as P1, and Redis keeps the last 100 messages in a stream ([[history]])",
    "C1": "64 clients connect, receive one message, close, and reconnect",
    "C1s": "the same, each with a session in Redis",
    "I1": "10,000 connections that have subscribed and never sent data",
    "I1p": "the same, after each has answered a ping",
    "I1s": "as I1p, each with a session, a user's channel and two groups'",
}
SOCKET_IO_WHAT = {
    "S1": "1,000 clients receive events of 128 bytes that RedisManager emits to everybody, 64 in flight; the plain WebSockets are those of F1",
    "S1w1": "the same, one event in flight",
    "S1r": "as S1, each client with a session; RedisManager emits to the room of a group",
    "SU": "5,000 users, each with a session in Redis; RedisManager emits to the rooms of random users, 256 events in flight. The plain WebSockets are those of U1",
    "SI": "10,000 Socket.IO clients over WebSockets, each in one namespace",
    "SP": "5,000 Socket.IO clients between two polls, each in one namespace",
}
# Workloads with a session in Redis for each visitor.
SESSIONS = {"U1": 5000, "C1s": 64, "I1s": 10000, "S1r": 1000, "SU": 5000}
# Further settings: messages expire after an hour; short ping intervals, so that each connection has answered a ping.
ENVIRONMENT = {
    "P1e": {"WS4REDIS_EXPIRE": "3600", "EXPIRE": "3600"},
    "I1p": {"WS4REDIS_PING__INTERVAL_SECONDS": "5"},
    "I1s": {"WS4REDIS_PING__INTERVAL_SECONDS": "5"},
}
# Further arguments of the gateway.
ARGUMENTS = {"P1h": ["--settings", HERE / "history.toml"]}
HOLD = {"I1": 2, "I1p": 12, "I1s": 12, "SI": 2}
# Upper bound in seconds of the generator's waits, in addition to the workload itself.
PATIENCE = 60


def option(arguments, name):
    """Returns the value of a generator option, or 0."""
    return int(arguments[len(arguments) - arguments[::-1].index(name)]) if name in arguments else 0


def seconds(work, secs, extra=()):
    """Estimates the duration of a measurement in seconds."""
    arguments = [*WORKS[work], *extra]
    connections = option(arguments, "--conns") + option(arguments, "--users")
    return 2.5 + connections / 4000 + HOLD.get(work, secs)


def generator(server, redis_pid, arguments):
    """Returns the command line of the generator on core 1."""
    # The last value of a repeated option applies.
    arguments = ["--connect-secs", "20", "--probe-secs", "15", "--drain-secs", "4", *arguments]
    measured = ["--pid", server.pid, "--redis-pid", redis_pid, "--core", "0", "--json"]
    return [str(word) for word in ["taskset", "-c", "1", TOOLS / "wsload", *arguments, *measured]]


def parse_output(output, errors=""):
    """Parses the numbers that the generator has printed."""
    lines = [line for line in output.splitlines() if line.startswith("{")]
    if not lines:
        raise Failed(f"the generator reports: {(errors or output).strip()[-300:] or 'nothing'}")
    result = json.loads(lines[-1])
    if "error" in result:
        raise Failed(f"{result['error']}: {result.get('why') or 'nothing more is known'}")
    if result.get("opened", 0) < result.get("conns", 0):
        raise Failed(f"{result['opened']} of {result['conns']} connections opened: {result.get('why') or 'too slowly'}")
    return result


def measure(work, server, redis, redis_pid, secs=5, extra=(), environment=None, alongside=contextlib.nullcontext):
    """Starts the server and runs the workload against it; returns the generator's numbers."""
    if work in SESSIONS:
        write_sessions(redis, SESSIONS[work])
    if work in ARGUMENTS:
        server = dataclasses.replace(server, command=[*server.command, *ARGUMENTS[work]])
    arguments = [*WORKS[work], *extra]
    kind = arguments[0]
    path = {"users": server.user, "upstream": server.publish}.get(kind, server.subscribe)
    if work == "I1s":
        path = "/ws/fac?subscribe-user&subscribe-group&subscribe-broadcast"
    with server.running(redis, **(environment or ENVIRONMENT.get(work, {}))), alongside():
        arguments += ["--url", server.url(path)]
        if work in SESSIONS:
            arguments += ["--header", f"Cookie: sessionid={SESSION}{'{u8}' if kind == 'users' else '{i8}'}"]
        if kind in ("fanout", "churn"):
            arguments += ["--pub", server.fill(server.pub)]
        if kind == "users":
            arguments += ["--pub", server.fill(server.pub_user)]
        for header in server.headers:
            arguments += ["--header", header]
        if server.hello:
            arguments += ["--hello", server.hello]
        if server.reply:
            arguments += ["--reply", server.reply]
        if template := server.templates.get(work, server.template):
            arguments += ["--pub-template", template]
        if kind == "upstream":
            arguments += ["--sub", server.fill(server.pub)]
        arguments += ["--hold", str(HOLD[work])] if kind == "idle" else ["--secs", str(secs)]
        command = generator(server, redis_pid, arguments)
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=secs + PATIENCE)
        except subprocess.TimeoutExpired:
            raise Failed("the generator did not end in time") from None
    result = parse_output(done.stdout, done.stderr)
    # A server that loses every message must not count as a fast one.
    if "delivered" in result and not result["delivered"] or result.get("received") == 0 or result.get("cycles") == 0:
        raise Failed("nothing has arrived")
    return result
