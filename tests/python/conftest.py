"""One Redis and one Django site for all tests; each test finds both empty but for the people."""

import atexit
import os
import sys
import tempfile
from pathlib import Path

import pytest

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent / "django")]

from stores import Ear, RedisServer  # noqa: E402

for name in [name for name in os.environ if name.startswith(("SITE_", "WS4REDIS_", "DJANGO_"))]:
    if name != "WS4REDIS_UPSTREAM_PYTHON":
        del os.environ[name]
SERVER = RedisServer()
atexit.register(SERVER.stop)
# In memory where that is to be had, since the file is emptied after each test.
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
# The Redis is the tests' own, so they write to it under any prefix.
from ws4redis import testing  # noqa: E402

testing._live += 1
call_command("migrate", verbosity=0)


@pytest.fixture
def store():
    """The Redis of the tests, empty."""
    SERVER.client.flushall()
    return SERVER.client


@pytest.fixture
def people(store):
    """The people by name; the database is emptied afterwards."""
    from chat.people import make_people
    from django.contrib.auth.models import User

    make_people()
    store.flushall()
    yield {user.get_username(): user for user in User.objects.all()}
    call_command("flush", verbosity=0, interactive=False)
    connections.close_all()


@pytest.fixture
def hints(people, store):
    """An ear on the control channel."""
    ear = Ear(store, "ws4redis:control")
    yield ear
    ear.close()


@pytest.fixture
def log_in(people):
    """Logs somebody in by the login page; returns the browser."""

    def log_in(username, browser=None, password="secret"):
        browser = browser or Client()
        answer = browser.post("/accounts/login/", {"username": username, "password": password})
        assert answer.status_code == 302, answer.content
        return browser

    return log_in
