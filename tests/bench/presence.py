#!/usr/bin/env python3
"""Measures what presence costs Redis: users on sockets of version 2, each with a session, in one facility each.

    tests/bench/presence.py                               10,000 users in 100 facilities, all told who is there
    tests/bench/presence.py --facilities 1 --watchers 10  all in one facility, ten of them told
    tests/bench/presence.py --help                        all options

Needs a release build of the gateway (BENCH_BINARY, or target/release/ws4redis). Prints the CPU time of redis-server in per
cent of a core: while the users arrive, while nothing changes, and while users leave and others join. The same without
[[presence]] comes first. Fails if steady presence adds 2 % or more.
"""

import argparse
import os
import selectors
import socket
import sys
import tempfile
import time
from pathlib import Path

from extras import processor_seconds
from servers import SESSION, Failed, ours, raise_file_limit, redis_server, write_sessions

ACCESS = '[[access]]\nfacility = ["*"]\nusers = ["*", "presence"]\n'
PRESENCE = '[[presence]]\nfacility = ["chat-*"]\n'
# Percent of a core that presence of steady users may add.
GOAL = 2.0
# Longer than the gateway's grace for a page that is loaded again.
AWAY_SECONDS = 8


def frame(text):
    """Returns a text as a masked frame; its mask is zero."""
    payload = text.encode()
    head = b"\x81" + (bytes([0x80 | len(payload)]) if len(payload) < 126 else b"\xfe" + len(payload).to_bytes(2, "big"))
    return head + bytes(4) + payload


class Users:
    """Sockets of users. All reads are thrown away; they are counted."""

    def __init__(self, port, options):
        self.port = port
        self.options = options
        self.selector = selectors.EpollSelector()
        self.sockets = {}
        self.received = 0

    def join(self, number):
        connection = socket.create_connection(("127.0.0.1", self.port), 10)
        head = (
            f"GET /ws/ HTTP/1.1\r\nHost: 127.0.0.1:{self.port}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
            "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
            f"Sec-WebSocket-Protocol: ws4redis.2\r\nCookie: sessionid={SESSION}{number:08}\r\n\r\n"
        )
        connection.sendall(head.encode())
        answer = b""
        while b"\r\n\r\n" not in answer:
            part = connection.recv(4096)
            if not part:
                raise Failed("the gateway has closed a connection")
            answer += part
        if not answer.startswith(b"HTTP/1.1 101"):
            raise Failed(f"no WebSocket: {answer!r}")
        facility = f"chat-{number % self.options.facilities}"
        flags = '"subscribe-broadcast"' + (',"presence"' if number < self.options.watchers else "")
        connection.sendall(frame(f'{{"t":"sub","f":"{facility}","flags":[{flags}]}}'))
        connection.setblocking(False)
        self.selector.register(connection, selectors.EVENT_READ, number)
        self.sockets[number] = connection

    def leave(self, number):
        connection = self.sockets.pop(number)
        self.selector.unregister(connection)
        connection.close()

    def read_until(self, end):
        """Reads what arrives until then."""
        while (left := end - time.monotonic()) > 0:
            for key, _ in self.selector.select(left):
                part = key.fileobj.recv(1 << 18)
                if not part:
                    raise Failed("the gateway has closed a connection")
                self.received += len(part)
            # Many ready sockets at a time cost less.
            time.sleep(min(0.01, max(0, end - time.monotonic())))

    def every(self, rate, seconds, action):
        """Calls the action at a rate per second, for some seconds."""
        start = time.monotonic()
        for index in range(int(rate * seconds)):
            self.read_until(start + index / rate)
            action(index)
        self.read_until(start + seconds)


def phase(name, redis_pid, action):
    """Returns the CPU time of Redis in percent of a core during an action."""
    before, since = processor_seconds(redis_pid), time.monotonic()
    action()
    spent, passed = processor_seconds(redis_pid) - before, time.monotonic() - since
    print(f"    {name}: {100 * spent / passed:.2f} % of a core, {spent:.2f} s in {passed:.0f} s", flush=True)
    return 100 * spent / passed


def measure(options, rules):
    with redis_server() as (redis, redis_pid), tempfile.TemporaryDirectory() as folder:
        settings = Path(folder, "presence.toml")
        settings.write_text(rules)
        # These clients answer no pings, and sessions that are read again would hide what presence costs.
        rare = {"WS4REDIS_PING__INTERVAL_SECONDS": "600", "WS4REDIS_SESSION__RECHECK_SECONDS": "3600"}
        server = ours(shards=options.shards, **rare)
        server.command += ["--settings", settings]
        write_sessions(redis, options.users)
        with server.running(redis):
            users = Users(server.port, options)
            found = {}

            def arrive():
                users.every(options.arrivals, options.users / options.arrivals, users.join)

            def churn():
                # Users leave in turn; each comes back when the grace is over.
                away = int(options.rate * AWAY_SECONDS)

                def change(index):
                    users.leave(index % options.users)
                    if index >= away:
                        users.join((index - away) % options.users)

                users.every(options.rate, options.seconds + AWAY_SECONDS, change)

            found["arrival"] = phase("arrival", redis_pid, arrive)
            users.read_until(time.monotonic() + AWAY_SECONDS)
            found["steady"] = phase("steady", redis_pid, lambda: users.read_until(time.monotonic() + options.seconds))
            found["churn"] = phase("churn", redis_pid, churn)
            print(f"    {users.received / 1e6:.0f} MB received by clients", flush=True)
            return found


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--users", type=int, default=10_000)
    parser.add_argument("--facilities", type=int, default=100)
    parser.add_argument("--watchers", type=int, help="users with the flag `presence`; by default all")
    parser.add_argument("--arrivals", type=float, default=200, help="users per second")
    parser.add_argument("--rate", type=float, default=50, help="leaves per second, and joins")
    parser.add_argument("--seconds", type=int, default=60, help="of the steady phase, and of the changes")
    parser.add_argument("--shards", type=int, default=2)
    options = parser.parse_args()
    if options.watchers is None:
        options.watchers = options.users
    raise_file_limit()
    print(f"{options}, load {os.getloadavg()[0]:.1f}")
    print("without presence", flush=True)
    without = measure(options, ACCESS)
    print("with presence", flush=True)
    found = measure(options, ACCESS + PRESENCE)
    added = {name: found[name] - without[name] for name in found}
    print("presence adds " + ", ".join(f"{name} {percent:.2f} %" for name, percent in added.items()))
    if added["steady"] >= GOAL:
        sys.exit(f"the goal is less than {GOAL} % of a core")


main()
