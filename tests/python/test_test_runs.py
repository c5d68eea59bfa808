"""A site's test run writes nothing to the site's Redis, unless a test requests it."""

import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
from conftest import SERVER
from django.test import override_settings

from ws4redis.publisher import RedisPublisher
from ws4redis.testing import capture_publications, redis_for_tests

PACKAGE = Path(__file__).resolve().parents[2] / "python"

SETTINGS = """
import os

SECRET_KEY = "for tests only"
INSTALLED_APPS = ["django.contrib.auth", "django.contrib.contenttypes", "django.contrib.sessions", "ws4redis"]
MIDDLEWARE = [
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    "ws4redis.middleware.SessionMiddleware",
]
DATABASES = {"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": ":memory:"}}
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
ROOT_URLCONF = "site_urls"
PASSWORD_HASHERS = ["django.contrib.auth.hashers.MD5PasswordHasher"]
WS4REDIS_CONNECTION = {"url": "%s"}
WS4REDIS_PREFIX = os.environ.get("SITE_PREFIX", "site")
"""

URLS = """
from django.http import HttpResponse
from django.urls import path
from ws4redis.publisher import RedisPublisher

def say(request):
    publisher = RedisPublisher(facility="x", broadcast=True, users=["john"])
    publisher.publish_message_on_commit("on commit")
    publisher.publish_message("at once", expire=0)
    return HttpResponse()

def chat(request):
    RedisPublisher(facility="chat", broadcast=True).publish_message_on_commit(request.POST["text"])
    return HttpResponse()

urlpatterns = [path("say/", say), path("chat/", chat)]
"""

TESTS = """
import redis
from django.conf import settings
from django.contrib.auth import get_user_model
from django.contrib.auth.models import Group
from django.test import TestCase, TransactionTestCase

from ws4redis import identity
from ws4redis.publisher import RedisPublisher
from ws4redis.testing import Publication, capture_publications, redis_for_tests

PUBLISHED_ON_MODULE_LEVEL = RedisPublisher(facility="module", broadcast=True)


class Changes:
    def test_changes_of_users(self):
        user = get_user_model().objects.create_user("test-user", password="x")
        self.client.force_login(user)
        user.groups.add(Group.objects.create(name="a"))
        user.is_active = False
        user.save()
        self.client.logout()
        identity.refresh(user)
        PUBLISHED_ON_MODULE_LEVEL.publish_message("kept")
        assert identity.pks_with_key() == []
        assert PUBLISHED_ON_MODULE_LEVEL.fetch_message(None, "module") is None


class WithoutTransaction(Changes, TransactionTestCase):
    def test_publications_are_captured(self):
        with capture_publications() as published:
            self.client.get("/say/")
        assert [(one.channel, one.message) for one in published] == [
            ("site:broadcast:x", b"on commit"), ("site:user:john:x", b"on commit"),
            ("site:broadcast:x", b"at once"), ("site:user:john:x", b"at once"),
        ]


class WithTransaction(Changes, TestCase):
    def test_publications_are_captured(self):
        with capture_publications() as published, self.captureOnCommitCallbacks(execute=True):
            self.client.get("/say/")
        assert published[:2] == [
            Publication("site:broadcast:x", b"at once", 0), Publication("site:user:john:x", b"at once", 0),
        ]
        assert published[2] == Publication("site:broadcast:x", b"on commit", 3600)
        with capture_publications():
            publisher = RedisPublisher(facility="x", broadcast=True)
            publisher.publish_message("last")
            assert publisher.fetch_message(None, "x") == b"last"
        assert len(published) == 4

    def test_a_test_may_ask_for_redis(self):
        client = redis.Redis.from_url(settings.WS4REDIS_CONNECTION["url"])
        with redis_for_tests() as prefix:
            RedisPublisher(facility="x", broadcast=True).publish_message("kept")
            assert client.get(f"{prefix}:broadcast:x") == b"kept"
            user = get_user_model().objects.create_user("test-user")
            identity.refresh(user)
            assert client.exists(f"{prefix}:ws4redis:identity:{user.pk}")
        assert client.keys("*") == [b"site:ws4redis:identity:1"]
        with self.assertRaises(ValueError), redis_for_tests("site"):
            pass
"""


@pytest.fixture
def site(tmp_path, store):
    """A project with tests, and a real user's key in its Redis; returns a function that runs the tests."""
    (tmp_path / "site_settings.py").write_text(SETTINGS % SERVER.url)
    (tmp_path / "site_urls.py").write_text(URLS)
    (tmp_path / "test_site.py").write_text(TESTS)
    (tmp_path / "pytest.ini").write_text("[pytest]\n")
    real = b'{"v":1,"active":true,"username":"the real one","groups":[],"auth_hashes":null}'
    store.set("site:ws4redis:identity:1", real)

    def run(*words, **variables):
        environment = dict(
            os.environ,
            **variables,
            DJANGO_SETTINGS_MODULE="site_settings",
            PYTHONPATH=f"{tmp_path}:{PACKAGE}",
        )
        with store.pubsub(ignore_subscribe_messages=True) as recorder:
            recorder.psubscribe("site:*")
            recorder.get_message(timeout=5)
            done = subprocess.run(
                [sys.executable, "-m", *words],
                cwd=tmp_path,
                env=environment,
                capture_output=True,
                text=True,
                timeout=120,
                check=False,
            )
            assert done.returncode == 0, done.stdout + done.stderr
            assert recorder.get_message(timeout=0.2) is None
        assert store.keys("*") == [b"site:ws4redis:identity:1"]
        assert store.get("site:ws4redis:identity:1") == real
        return done.stdout + done.stderr

    return run


def test_a_test_run_of_django_writes_nothing_to_the_sites_redis(site):
    assert "Ran 5 tests" in site("django", "test")


def test_a_parallel_test_run_of_django_writes_nothing_to_the_sites_redis(site):
    assert "Ran 5 tests" in site("django", "test", "--parallel", "2")


def test_a_test_run_of_pytest_django_writes_nothing_to_the_sites_redis(site):
    pytest.importorskip("pytest_django")
    assert "5 passed" in site("pytest", "-q", "-p", "no:cacheprovider")


def test_a_test_run_of_pytest_xdist_writes_nothing_to_the_sites_redis(site):
    pytest.importorskip("pytest_django")
    pytest.importorskip("xdist")
    assert "5 passed" in site("pytest", "-q", "-p", "no:cacheprovider", "-n", "2")


def test_the_tests_of_the_documentation_run(site, tmp_path):
    text = (PACKAGE.parent / "docs/django.md").read_text()
    section = text.split("## Testing what is published")[1].split("\n## ")[0]
    language = "python"
    first, second = (part.split("```")[0] for part in section.split(f"```{language}\n")[1:])
    second = textwrap.indent(second, " " * 8)
    (tmp_path / "test_site.py").write_text(f"{first}\n    def test_redis(self):\n{second}")
    assert "Ran 2 tests" in site("django", "test", SITE_PREFIX="")


@pytest.mark.parametrize(
    ("prefix", "refused"),
    [
        (None, ["ws4redis", "user", "broadcast", "session:abc"]),
        ("site", ["site", "site:user", "site:ws4redis"]),
        ("a:b", ["a", "a:b", "a:b:group"]),
    ],
)
def test_a_prefix_that_contains_names_of_the_site_is_refused(store, prefix, refused):
    start = f"{prefix}:" if prefix else ""
    names = [f"{start}{name}".encode() for name in ("ws4redis:identity:1", "user:john:x", "broadcast:x")]
    store.mset(dict.fromkeys(names, "real"))
    with override_settings(WS4REDIS_PREFIX=prefix):
        for name in refused:
            with pytest.raises(ValueError, match="of its own"), redis_for_tests(name):
                pass
        for name in ("sites", "users", "tests", None):
            with redis_for_tests(name):
                pass
    assert sorted(store.keys("*")) == sorted(names)


def test_only_names_of_the_package_are_deleted_after_a_test(store):
    store.set("mysite:1:django.contrib.sessions.cache", "a session")
    with redis_for_tests("mysite"):
        RedisPublisher(facility="x", broadcast=True).publish_message("kept", expire=60)
        assert store.exists("mysite:broadcast:x")
    assert store.keys("*") == [b"mysite:1:django.contrib.sessions.cache"]


def test_publications_to_redis_are_captured_too(store):
    with redis_for_tests() as prefix, capture_publications() as published:
        RedisPublisher(facility="x", broadcast=True).publish_message("both", expire=60)
        assert store.get(f"{prefix}:broadcast:x") == b"both"
    assert [(one.channel, one.message) for one in published] == [(f"{prefix}:broadcast:x", b"both")]


SHELL = """
import django
from django.test.utils import setup_test_environment, teardown_test_environment
django.setup()
from ws4redis.publisher import RedisPublisher
publisher = RedisPublisher(facility="x", broadcast=True)
{before}
publisher.publish_message("one")
publisher.publish_message("two")
{after}
"""


def test_a_process_muted_without_a_test_runner_logs_it_once(site, tmp_path):
    """Covers a shell in which a developer follows Django's tutorial."""
    (tmp_path / "shell.py").write_text(SHELL.format(before="setup_test_environment()", after=""))
    output = site("shell")
    assert output.count("setup_test_environment() was called") == 1
    assert "setup_test_environment() was called" not in site("django", "test")


def test_a_process_without_a_test_environment_publishes(site, tmp_path):
    """Covers servers, workers and commands, also after a test environment was torn down."""
    after = """
from ws4redis import connection
assert publisher.fetch_message(None, "x") == b"two"
assert connection.client().delete("other:broadcast:x") == 1
"""
    for before in ("", "setup_test_environment(); teardown_test_environment()"):
        (tmp_path / "shell.py").write_text(SHELL.format(before=before, after=after))
        assert "setup_test_environment() was called" not in site("shell", SITE_PREFIX="other")
