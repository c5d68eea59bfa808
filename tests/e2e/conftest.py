"""The worlds: one for each way in which a site keeps its sessions."""

import fcntl
import itertools
import os
import random
import re
import shutil

import pytest

import harness
from worlds import SECRET_KEY, Kind, World, make_database

WORKERS = 4
"""As `tests/run` starts them: most of the time, tests wait for the moment after which sockets are closed."""

# Beside those of the other suites, so that two can run at a time; and each worker has its own.
EACH = 150
_worker = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw")) % WORKERS
_first = 18300 + _worker * EACH
harness.PORTS = itertools.cycle(random.sample(range(_first, _first + EACH), EACH))

PREFIX = {"prefix": "demo"}
# Each engine with a Redis that tells of keys, and with one that does not, where only the package's hints do.
KINDS = [
    Kind("cache", {"sessions": "cache"}),
    Kind("cache+prefix", {"sessions": "cache", **PREFIX}, events=True),
    Kind("cached_db", {"sessions": "cached_db"}),
    Kind("django_redis", {"sessions": "django_redis"}),
    Kind("django_redis+json", {"sessions": "django_redis", "serializer": "json"}, events=True),
    Kind(
        "django_redis_cached_db+zlib+prefix",
        {"sessions": "django_redis_cached_db", "compressor": "zlib", **PREFIX},
        events=True,
    ),
    # The gateway's own templates fit.
    Kind("redis_sessions", {"sessions": "redis_sessions"}, {"session__secret_key": SECRET_KEY}),
    Kind(
        "redis_sessions+prefix",
        {"sessions": "redis_sessions", "session_prefix": "logins", **PREFIX},
        {"session__secret_key": SECRET_KEY, "session__keys": "signed logins:{key}"},
        events=True,
    ),
]


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config, log):
    """What needs the same world runs in the same worker."""
    from xdist.scheduler import LoadScopeScheduling

    class ByWorld(LoadScopeScheduling):
        def _split_scope(self, nodeid):
            # `test_sessions.py::test_this[cache+prefix-removed]`; ids of worlds have no dash.
            return re.search(r"\[([^]-]+)|$", nodeid)[1] or nodeid

    return ByWorld(config, log)


@pytest.fixture(scope="session")
def database(tmp_path_factory):
    """Gives new databases, copies of one that all workers share."""
    own = tmp_path_factory.mktemp("site")
    shared = own.parents[1 if "PYTEST_XDIST_WORKER" in os.environ else 0]
    empty = shared / "empty.sqlite3"
    with (shared / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not empty.exists():
            making = shared / "making.sqlite3"
            make_database(making)
            making.rename(empty)
    return lambda kind: shutil.copy(empty, own / f"{kind.name}.sqlite3")


@pytest.fixture(scope="session", params=KINDS, ids=lambda kind: kind.name)
def started(request, database):
    world = World(request.param, database(request.param))
    yield world
    world.stop()


@pytest.fixture
def world(started):
    """With the people as they were, and nobody logged in."""
    started.begin()
    return started
