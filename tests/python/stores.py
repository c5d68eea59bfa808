"""A Redis for the tests, and recorders of its commands and channels."""

import re
import socket
import subprocess
import tempfile
import time
from contextlib import contextmanager
from pathlib import Path

import redis

DEADLINE_SECONDS = 30


class UnixRedisServer:
    """A redis-server on a unix socket in a directory of its own, and on TCP if a port is given."""

    def __init__(self, port=0):
        """Starts the server and waits until it answers."""
        self.directory = tempfile.TemporaryDirectory(prefix="ws4redis-")
        self.port = port
        self.path = str(Path(self.directory.name) / "redis.sock")
        self.url = f"unix://{self.path}"
        self.process = subprocess.Popen(
            ["redis-server", "--port", str(port), "--bind", "127.0.0.1", "--unixsocket", self.path]
            + ["--save", "", "--appendonly", "no", "--dir", self.directory.name],
            stdout=subprocess.DEVNULL,
        )
        self.client = redis.Redis(unix_socket_path=self.path)
        wait_for(self.answers, "redis-server")

    def answers(self):
        """Tests whether the server answers a PING."""
        try:
            return self.client.ping()
        except redis.ConnectionError:
            return False

    def stop(self):
        """Stops the server."""
        self.client.close()
        self.process.terminate()
        self.process.wait(DEADLINE_SECONDS)
        self.directory.cleanup()


def wait_for(condition, what):
    """Waits until the condition returns a true value; returns it."""
    end = time.monotonic() + DEADLINE_SECONDS
    while time.monotonic() < end:
        value = condition()
        if value:
            return value
        time.sleep(0.02)
    raise AssertionError(f"waited {DEADLINE_SECONDS} s for {what}")


@contextmanager
def commands(client):
    """Yields a list; after the block it holds the commands that Redis received within it, split into words."""
    seen = []
    # A socket of its own, since redis-py splits the words at spaces.
    with socket.socket(socket.AF_UNIX) as monitor:
        monitor.settimeout(DEADLINE_SECONDS)
        monitor.connect(client.connection_pool.connection_kwargs["path"])
        lines = monitor.makefile("rb")
        monitor.sendall(b"MONITOR\r\n")
        assert lines.readline() == b"+OK\r\n"
        yield seen
        client.echo("end of the block")
        while (words := _words(lines.readline())) != ["ECHO", "end of the block"]:
            # redis-py's commands on connect are not part of the comparison.
            if words[0] not in ("HELLO", "CLIENT", "SELECT", "AUTH"):
                seen.append(words)
        lines.close()


def _words(line):
    """Splits `+1700000000.1 [0 127.0.0.1:5] "get" "a key"`."""
    quoted = re.findall(rb'"((?:[^"\\]|\\.)*)"', line.split(b"] ", 1)[1])
    words = [word.decode("unicode_escape").encode("latin-1").decode("utf-8", "replace") for word in quoted]
    return [words[0].upper(), *words[1:]]


class ChannelRecorder:
    """Subscribes to channels and records their messages."""

    def __init__(self, client, *channels):
        """Subscribes, and waits for the confirmations."""
        self.pubsub = client.pubsub()
        self.pubsub.subscribe(*channels)
        for _ in channels:
            assert self.pubsub.get_message(timeout=DEADLINE_SECONDS)["type"] == "subscribe"

    def received(self, count=None):
        """Returns the messages as text; waits for `count` of them, or returns those that have arrived."""
        messages = []
        while count is None or len(messages) < count:
            message = self.pubsub.get_message(timeout=0.05 if count is None else DEADLINE_SECONDS)
            if message is None:
                assert count is None, f"waited for message {len(messages) + 1} of {count}"
                break
            messages.append(message["data"].decode())
        return messages

    def close(self):
        """Closes the connection."""
        self.pubsub.close()
