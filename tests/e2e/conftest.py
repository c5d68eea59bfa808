"""The deployments: one for each session engine."""

import fcntl
import itertools
import os
import random
import re
import shutil

import pytest

import harness
from deployments import SECRET_KEY, SiteKind, Deployment, make_database

WORKERS = 4
"""The number that `tests/run` starts: the tests mostly wait for timers, so more workers than cores pay off."""

# Disjoint from the ports of the other suites, so that two suites can run at once; one range per worker.
EACH = 150
_worker = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw")) % WORKERS
_first = 18300 + _worker * EACH
harness.PORTS = itertools.cycle(random.sample(range(_first, _first + EACH), EACH))

PREFIX = {"prefix": "demo"}
# Each engine with keyspace notifications and without them; without them only the package's messages end sessions.
KINDS = [
    SiteKind("cache", {"sessions": "cache"}),
    SiteKind("cache+prefix", {"sessions": "cache", **PREFIX}, events=True),
    SiteKind("cached_db", {"sessions": "cached_db"}),
    SiteKind("django_redis", {"sessions": "django_redis"}),
    SiteKind("django_redis+json", {"sessions": "django_redis", "serializer": "json"}, events=True),
    SiteKind(
        "django_redis_cached_db+zlib+prefix",
        {"sessions": "django_redis_cached_db", "compressor": "zlib", **PREFIX},
        events=True,
    ),
    # Matches the gateway's default key templates.
    SiteKind("redis_sessions", {"sessions": "redis_sessions"}, {"session__secret_key": SECRET_KEY}),
    SiteKind(
        "redis_sessions+prefix",
        {"sessions": "redis_sessions", "session_prefix": "logins", **PREFIX},
        {"session__secret_key": SECRET_KEY, "session__keys": "signed logins:{key}"},
        events=True,
    ),
]


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config, log):
    """Schedules the tests of one deployment on one worker."""
    from xdist.scheduler import LoadScopeScheduling

    class ByDeployment(LoadScopeScheduling):
        def _split_scope(self, nodeid):
            # `test_sessions.py::test_this[cache+prefix-removed]`; ids of deployments contain no dash.
            return re.search(r"\[([^]-]+)|$", nodeid)[1] or nodeid

    return ByDeployment(config, log)


@pytest.fixture(scope="session")
def database(tmp_path_factory):
    """Returns a function that creates databases as copies of one that all workers share."""
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
    deployment = Deployment(request.param, database(request.param))
    yield deployment
    deployment.stop()


@pytest.fixture
def deployment(started):
    """The deployment with its initial users and no sessions."""
    started.reset()
    return started
