"""Runs each client of docs/clients.md unchanged: its messages in both directions, its handshake, its end."""

import os
import re
import shutil
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest
from documents import ROOT, shows
from harness import DEADLINE, clean_environment, unique

from wire import Program, Wire

CLIENTS = "docs/clients.md"
MODULES = Path(__file__).parent / "node_modules"
CACHE = ROOT / "tests" / ".cache"
WEBSOCAT = CACHE / "websocat" / "bin"
GO_SECONDS = 180
"""The first run also downloads and compiles."""
LARGE = 100_000
"""More than some clients accept by default; the documented programs raise the limit."""


def path_to(command, *places):
    """Returns a PATH that contains the command; skips the test if it is not installed."""
    path = os.pathsep.join([*map(str, places), os.environ["PATH"]])
    if not shutil.which(command, path=path):
        pytest.skip(f"{command} is not installed")
    return path


def python(home, program):
    (home / "hello.py").write_text(program)
    return Program([sys.executable, "hello.py"], home)


def node(home, program):
    (home / "hello.mjs").write_text(program)
    (home / "node_modules").symlink_to(MODULES)
    return Program(["node", "hello.mjs"], home)


def go(home, program, commands):
    (home / "main.go").write_text(program)
    own = CACHE / "go"
    where = {"GOPATH": own, "GOCACHE": own / "build", "GOFLAGS": "-modcacherw", "GOTOOLCHAIN": "local"}
    return Program(["bash", "-ec", commands], home, PATH=path_to("go", "/usr/local/go/bin"), **where)


def wscat(home, command):
    return Program(["bash", "-c", command], home, terminal=True, PATH=path_to("wscat", MODULES / ".bin"))


def websocat(home, command):
    return Program(["bash", "-c", command], home, PATH=path_to("websocat", WEBSOCAT))


def curl(home, command):
    return Program(["bash", "-c", command], home)


class Case:
    """How to run a documented client, and its output (a pattern or None) after a close with 4401."""

    def __init__(self, start, session, token, closed, types=False):
        self.start = start
        self.session, self.token = session, token
        self.closed = closed
        self.types = types


WHY = r"closed: 4401 session ended\n"
CASES = {
    "websockets": Case(python, (1,), (1, 2), WHY),
    "websocket-client": Case(python, (1,), (1, 2), WHY),
    "aiohttp": Case(python, (1,), (1, 2), r"closed: 4401\n"),
    "ws": Case(node, (1,), (1, 2), WHY),
    "wscat": Case(wscat, (1,), (2,), r'Disconnected \(code: 4401, reason: "session ended"\)', types=True),
    "websocat": Case(websocat, (1,), (2,), None, types=True),
    "Go": Case(go, (1, 2), (1, 2, 3), r"closed: StatusCode\(4401\)\n"),
    "curl": Case(curl, (1,), (2,), r'event: close\ndata: \{"code":4401,"reason":"session ended"\}\n'),
}
SESSIONS = [pytest.param(name, marks=shows(CLIENTS, name, *case.session), id=name) for name, case in CASES.items()]
TOKENS = [pytest.param(name, marks=shows(CLIENTS, name, *case.token), id=name) for name, case in CASES.items()]


def beginning(line):
    return re.match(r"[^({]*[({]|", line)[0]


def assembled(blocks, replacements):
    """Returns the code of the blocks; a later block replaces the line of the first one that starts like it."""
    program, *others = [block.code for block in blocks]
    commands = []
    for code in others:
        lines = program.splitlines()
        same = [number for number, line in enumerate(lines) if beginning(line).strip() == beginning(code).strip() != ""]
        if not same:
            commands.append(code)
            continue
        (number,) = same
        indent = re.match(r"\s*", lines[number])[0]
        program = "\n".join([*lines[:number], indent + code.strip(), *lines[number + 1 :]]) + "\n"
    for old, new in replacements.items():
        assert old in program, f"{old} is not in {program}"
        program = program.replace(old, str(new))
    return program, *commands


@pytest.fixture
def wire(gateway, token_key):
    """A recording proxy in front of a gateway that pings every second."""
    backend = gateway(
        ping__interval_seconds=1, ping__timeout_seconds=5, auth__jwt__algorithm="HS256", auth__jwt__key_file=token_key
    )
    wire = Wire(backend.port)
    wire.gateway = backend
    yield wire
    wire.close()


@pytest.fixture
def run(blocks, wire, tmp_path):
    """Returns a function that starts the client at a facility; it returns the client and both handshake heads."""
    started = []

    def start(case, facility, **replacements):
        where = {"127.0.0.1:8000": f"127.0.0.1:{wire.port}", "foobar": facility} | replacements
        program = case.start(tmp_path, *assembled(blocks, where))
        started.append(program)
        return program, *wire.connected(GO_SECONDS if case.start is go else DEADLINE, program)

    yield start
    for program in started:
        program.stop()


def rows():
    """Returns the cells of the table of clients, by the heading of the client."""
    found = {}
    for line in (ROOT / CLIENTS).read_text().splitlines():
        if link := re.match(r"\| \[([^]]*)\]\(#(\S+)\)", line):
            found[link[2]] = [cell.strip() for cell in line.strip("|").split("|")]
    return found


@pytest.mark.parametrize("name", SESSIONS)
def test_a_client_with_a_session(name, blocks, run, wire, store, john):
    case, facility = CASES[name], unique()
    with wire.gateway.connect(facility) as listener:
        client, request, answer = run(case, facility, SESSION=john.session)
        if case.types:
            client.type(f"Hello from {name}")
        if name != "curl":
            # websocat sends the line feed of its input as part of the message.
            listener.expect(f"Hello from {name}" + "\n" * (name == "websocat"))
        store.client.publish(f"user:john:{facility}", "to John")
        client.expect("to John\n")
        store.client.publish(f"broadcast:{facility}", "x" * LARGE)
        # Only websocat prints a large message in parts.
        client.expect(f"x{{65535}}\nx{{{LARGE - 65535}}}\n" if name == "websocat" else f"(?<!x)x{{{LARGE}}}\n")
        if name == "curl":
            client.expect("(?m)^:")
        else:
            wire.answers_a_ping()
        john.log_out()
        if case.closed is None:
            assert client.end() == (0, ""), "no output at the end"
        else:
            client.expect(case.closed)
    row = rows()[name.lower()]
    assert row[2:4] == ["yes" if re.search(header, request) else "no" for header in HEADERS], request
    assert "extensions" not in answer.lower()


HEADERS = "(?i)sec-websocket-extensions: permessage-deflate", "(?i)origin: "


@pytest.mark.parametrize("name", TOKENS)
def test_a_client_with_a_token(name, blocks, run, store, john):
    facility = unique()
    client, request, answer = run(CASES[name], facility, TOKEN=john.token)
    assert "sessionid" not in request
    assert answer.startswith("HTTP/1.1 200" if name == "curl" else "HTTP/1.1 101"), answer
    assert name == "curl" or re.search("(?im)^sec-websocket-protocol: ws4redis\r?$", answer)
    store.client.publish(f"user:john:{facility}", "to John")
    client.expect("to John\n")


@shows(CLIENTS, "websocat", 3)
def test_websocat_publishes_from_a_script(blocks, gateway, tmp_path):
    facility, path = unique(), path_to("websocat", WEBSOCAT)
    here = gateway()
    with here.connect(facility) as listener:
        command = blocks[0].filled({"127.0.0.1:8000": f"127.0.0.1:{here.port}", "foobar": facility})
        done = subprocess.run(["bash", "-c", command], env=clean_environment(PATH=path), timeout=DEADLINE, check=False)
        assert done.returncode == 0
        listener.expect("Hello from a script\n")


@shows(CLIENTS, "curl", 3)
def test_curl_publishes(blocks, gateway, john, tmp_path):
    facility, here = unique(), gateway()
    words = {"127.0.0.1:8000": f"127.0.0.1:{here.port}", "foobar": facility, "SESSION": john.session}
    with here.connect(facility) as listener:
        command = blocks[0].filled(words)
        done = subprocess.run(["bash", "-c", command], timeout=DEADLINE, check=False, capture_output=True)
        assert done.returncode == 0, done.stderr
        listener.expect("Hello from curl")
        refused = subprocess.run(
            ["bash", "-c", command.replace("X-WS4Redis: 1", "X-Other: 1")],
            timeout=DEADLINE,
            check=False,
            capture_output=True,
        )
        assert refused.returncode == 22, "-f turns a refusal into an exit code"


def installed():
    """Yields pairs of heading and installed version; curl's version depends on the machine."""
    for name in ("websockets", "websocket-client", "aiohttp"):
        yield name, version(name)
    for name in ("ws", "wscat"):
        yield name, output_of("node", "-p", f"require('{MODULES}/{name}/package.json').version")
    if websocat := shutil.which("websocat", path=os.pathsep.join([str(WEBSOCAT), os.environ["PATH"]])):
        yield "websocat", output_of(websocat, "--version").split()[1]


def output_of(*command):
    return subprocess.run(command, capture_output=True, text=True, timeout=DEADLINE, check=True).stdout.strip()


def test_the_table_has_the_installed_versions():
    table = rows()
    assert sorted(table) == sorted(name.lower() for name in CASES)
    for name, number in installed():
        assert f"{number}.".startswith(f"{table[name][1]}."), f"{name}: {table[name][1]}, but {number} is installed"
    assert f"websocket@v{table['go'][1]}." in (ROOT / CLIENTS).read_text()
