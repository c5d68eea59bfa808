"""One Redis and one Django site for all tests; both are empty at the start of each test, except for the users."""

import atexit
import os
import sys
import tempfile
from pathlib import Path

import pytest

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent / "django")]

from stores import ChannelRecorder, UnixRedisServer  # noqa: E402

for name in [name for name in os.environ if name.startswith(("SITE_", "WS4REDIS_", "DJANGO_"))]:
    if name not in ("WS4REDIS_UPSTREAM_PYTHON", "WS4REDIS_SOCKETIO_PYTHON"):
        del os.environ[name]
SERVER = UnixRedisServer()
atexit.register(SERVER.stop)
# In /dev/shm if it exists, since the database is flushed after each test.
DATABASE = tempfile.TemporaryDirectory(
    prefix="ws4redis-", dir="/dev/shm" if os.path.isdir("/dev/shm") else None
)
atexit.register(DATABASE.cleanup)
os.environ.update(
    SITE_REDIS=SERVER.url,
    SITE_DATABASE=str(Path(DATABASE.name) / "site.sqlite3"),
    DJANGO_SETTINGS_MODULE="project.settings",
)

import django  # noqa: E402
from django.core.management import call_command  # noqa: E402
from django.db import connections  # noqa: E402
from django.test import Client  # noqa: E402
from django.test.utils import setup_test_environment  # noqa: E402

django.setup()
setup_test_environment()
# This Redis belongs to the tests, so publications need no test prefix.
from ws4redis import testing  # noqa: E402

testing._live += 1
# It reads its settings when it is imported: not within a test that overrides them.
import redis_sessions.settings  # noqa: E402, F401

call_command("migrate", verbosity=0)


@pytest.fixture
def store():
    """The tests' Redis, emptied."""
    SERVER.client.flushall()
    return SERVER.client


@pytest.fixture
def people(store):
    """The users by name; the database is flushed afterwards."""
    from chat.people import make_people
    from django.contrib.auth.models import User

    make_people()
    store.flushall()
    yield {user.get_username(): user for user in User.objects.all()}
    call_command("flush", verbosity=0, interactive=False)
    connections.close_all()


@pytest.fixture
def invalidations(people, store):
    """A recorder of the control channel."""
    recorder = ChannelRecorder(store, "ws4redis:control")
    yield recorder
    recorder.close()


@pytest.fixture
def log_in(people):
    """Returns a function that logs a user in by the login page and returns the browser."""

    def log_in(username, browser=None, password="secret"):
        browser = browser or Client()
        answer = browser.post("/accounts/login/", {"username": username, "password": password})
        assert answer.status_code == 302, answer.content
        return browser

    return log_in
