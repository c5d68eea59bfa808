"""redis-cli: one command, a script, and an interactive terminal."""

import fcntl
import os
import pty
import re
import select
import struct
import subprocess
import termios
import time

import pytest

from harness import DEADLINE, EMBEDDED_PORT, unique

CLI = ["redis-cli", "-h", "127.0.0.1", "-p", str(EMBEDDED_PORT)]


def cli(*arguments, text=None):
    done = subprocess.run(
        [*CLI, *arguments], input=text, capture_output=True, text=True, timeout=DEADLINE, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("protocol", ["-2", "-3"])
def test_one_command(protocol):
    key = unique()
    assert cli(protocol, "SET", key, "value", "EX", "60") == "OK\n"
    assert cli(protocol, "GET", key) == "value\n"
    assert cli(protocol, "PUBLISH", unique(), "x") == "0\n"
    assert cli(protocol, "LPUSH", key, "x").startswith("ERR unknown command")


def test_a_script_on_standard_input():
    key = unique()
    assert cli(text=f"SET {key} 1\nINCR {key}\nGET {key}\n") == "OK\n2\n2\n"


def test_scan():
    key = unique()
    cli("SET", key, "x", "EX", "60")
    assert cli("--scan", "--pattern", f"{key}*") == f"{key}\n"


def test_publishing_reaches_a_browser(gateway):
    facility = unique()
    with gateway.connect(facility) as listener:
        assert cli("PUBLISH", f"broadcast:{facility}", "Hello") == "1\n"
        listener.expect("Hello")


class Terminal:
    """An interactive redis-cli under a pseudo-terminal."""

    def __init__(self):
        self.screen = ""
        self.child, self.terminal = pty.fork()
        if self.child == 0:
            os.environ.update(TERM="xterm", HOME="/nonexistent")
            # Without a size, redis-cli asks the terminal for one and waits.
            fcntl.ioctl(0, termios.TIOCSWINSZ, struct.pack("HHHH", 40, 200, 0, 0))
            os.execvp(CLI[0], CLI)

    def type(self, text):
        os.write(self.terminal, text.encode())

    def expect(self, pattern):
        """Waits until the screen shows `pattern`, and drops the text up to it."""
        end = time.monotonic() + DEADLINE
        while not (found := re.search(pattern, self.screen)):
            assert time.monotonic() < end, f"no {pattern!r}; the screen: {self.screen!r}"
            if select.select([self.terminal], [], [], 0.1)[0]:
                # Removes colours and cursor movements.
                got = os.read(self.terminal, 65536).decode(errors="replace")
                self.screen += re.sub(r"\x1b\[[0-9;?]*[A-Za-z]|\r", "", got)
        self.screen = self.screen[found.end() :]

    def wait(self):
        end = time.monotonic() + DEADLINE
        while True:
            done, status = os.waitpid(self.child, os.WNOHANG)
            if done:
                return os.waitstatus_to_exitcode(status)
            assert time.monotonic() < end, "redis-cli has not ended"
            if select.select([self.terminal], [], [], 0.05)[0]:
                try:
                    os.read(self.terminal, 65536)
                except OSError:
                    continue

    def close(self):
        os.close(self.terminal)


@pytest.fixture
def terminal():
    terminal = Terminal()
    yield terminal
    terminal.close()


def test_a_person_at_a_terminal(terminal):
    key = unique()
    # redis-cli may discard input before its prompt.
    prompt = rf"127\.0\.0\.1:{EMBEDDED_PORT}(\[3\])?(\(TX\))?> $"
    terminal.expect(prompt)
    for line, answer in [
        (f'SET {key} "two words"', r"\nOK\n"),
        (f"GET {key}", r'\n"two words"\n'),
        (f"EXPIRE {key} 60", r"\n\(integer\) 1\n"),
        ("NONSENSE", r"\n\(error\) ERR unknown command"),
        ("MULTI", r"\nOK\n"),
        (f"GET {key}", r"\nQUEUED\n"),
        ("EXEC", r'\n1\) "two words"\n'),
        ("SELECT 3", r"\nOK\n"),
        (f"GET {key}", r"\n\(nil\)\n"),
    ]:
        terminal.type(f"{line}\r")
        terminal.expect(answer)
        terminal.expect(prompt)
    terminal.type("exit\r")
    assert terminal.wait() == 0


def test_a_person_subscribes(terminal, gateway):
    facility = unique()
    channel = f"broadcast:{facility}"
    terminal.expect(r"> ")
    terminal.type(f"SUBSCRIBE {channel}\r")
    terminal.expect(r"Reading messages")
    terminal.expect(rf'"{channel}"\n3\) \(integer\) 1')
    with gateway.connect(facility, "publish-broadcast") as client:
        client.send("from a browser")
        terminal.expect(rf'1\) "message"\n2\) "{channel}"\n3\) "from a browser"')
