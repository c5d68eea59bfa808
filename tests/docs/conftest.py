"""Servers for the code blocks, and the fixture that gives a test its blocks."""

import datetime
import fcntl
import itertools
import json
import os
import random
from types import SimpleNamespace

import documents
import harness
import jwt
import pytest
import redis
from harness import Gateway, RedisServer
from pages import Chromium
from project import Project

from wire import Wire

# Disjoint from the ports of the other suites, so that two suites can run at once; one range per worker.
EACH = 100
_worker = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw")) % 3
_first = 18900 + _worker * EACH
harness.PORTS = itertools.cycle(random.sample(range(_first, _first + EACH), EACH))

SCRIPTS = {
    f"/static/{folder}ws4redis.{kind}": ("text/javascript", (documents.ROOT / f"static/ws4redis.{kind}").read_text())
    for folder in ("", "js/")
    for kind in ("js", "mjs")
}
"""The client at the paths of the gateway's own pages and of Django sites."""

TOKEN_KEY = "of the tests of the documents, and of nothing else in the world"
SESSION = "wnqd0gbw5obpnj50zwh6yaq2yz4o8g9x"


def pytest_configure(config):
    config.addinivalue_line("markers", "shows(document, heading, numbers, checked): the blocks that a test shows")


def shown_by(item):
    """Yields the blocks of a test's marks in their order, each with the reason if it is only checked, not run."""
    for mark in reversed(list(item.iter_markers("shows"))):
        document, heading, numbers, checked = mark.args
        for number in numbers:
            yield (document, heading, number), checked


@pytest.fixture
def blocks(request):
    """The blocks of the test, in the order of its marks."""
    return [documents.ShownBlock(documents.find(*name)) for name, _ in shown_by(request.node)]


@pytest.hookimpl(wrapper=True)
def pytest_pyfunc_call(pyfuncitem):
    result = yield
    if list(shown_by(pyfuncitem)):
        assert "blocks" in pyfuncitem.funcargs, "a test with the mark `shows` has to use the fixture `blocks`"
        unread = [one.block.name for one in pyfuncitem.funcargs["blocks"] if not one.was_read]
        assert not unread, f"the test does not read these blocks of its marks: {unread}"
    return result


@pytest.fixture(scope="session")
def server():
    server = RedisServer("--notify-keyspace-events", "Kgxe")
    server.client = redis.Redis(port=server.port)
    yield server
    server.stop()


@pytest.fixture
def store(server):
    """An empty Redis with keyspace notifications: the documents reuse the same facilities and users."""
    server.client.flushall()
    return server


@pytest.fixture
def gateway(store):
    """Returns a function that starts gateways on this Redis."""
    started = []

    def start(**settings):
        started.append(Gateway(**({"redis__url": f"{store.url}/0"} | settings)))
        return started[-1]

    yield start
    for one in started:
        one.stop()


@pytest.fixture
def john(store):
    """A visitor with a session and a token."""
    key = f":1:django.contrib.sessions.cache{SESSION}"
    session = {"_auth_user_id": "1", "_auth_user_hash": "h", "ws4redis:username": "john"}
    store.client.set(key, json.dumps(session), ex=1000)
    end = datetime.datetime.now(datetime.UTC) + datetime.timedelta(minutes=5)
    token = jwt.encode({"sub": "john", "exp": end}, TOKEN_KEY, "HS256")
    return SimpleNamespace(session=SESSION, token=token, log_out=lambda: store.client.delete(key))


@pytest.fixture
def token_key(tmp_path):
    path = tmp_path / "token_key"
    path.write_text(TOKEN_KEY)
    return path


@pytest.fixture(scope="session")
def chromium():
    chromium = Chromium()
    yield chromium
    chromium.stop()


@pytest.fixture
def visit(chromium):
    """Returns a function that opens a page on the origin of a gateway; `files` maps further paths to their content."""
    opened = []

    def visit(gateway, html, cookies=(), **files):
        wire = Wire(gateway.port)
        opened.append(wire)
        # A page may need its own address.
        html = html(f"127.0.0.1:{wire.port}") if callable(html) else html
        wire.files = SCRIPTS | {"/": ("text/html", html)} | files
        page = chromium.open(f"http://127.0.0.1:{wire.port}/", cookies)
        page.host = f"127.0.0.1:{wire.port}"
        opened.append(page)
        return page

    yield visit
    for one in reversed(opened):
        one.close()


@pytest.fixture(scope="session")
def empty_project(tmp_path_factory):
    """The project that all others are copies of, made once for all workers."""
    shared = tmp_path_factory.getbasetemp()
    shared = shared.parent if "PYTEST_XDIST_WORKER" in os.environ else shared
    home = shared / "empty-project"
    with (shared / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not home.exists():
            making = shared / "making"
            making.mkdir()
            Project.make_empty(making)
            making.rename(home)
    return home


@pytest.fixture
def project(empty_project, tmp_path, store):
    """A new project."""
    return Project(empty_project, tmp_path, store)
