"""The stores, gateways and sites of the compatibility suite."""

import functools
import subprocess
import sys

import pytest
import redis

from harness import (
    BINARY,
    DEADLINE,
    EMBEDDED_PORT,
    Gateway,
    PubSubRecorder,
    RedisServer,
    clean_environment,
    embedded_gateway,
)
from visitors import MANAGE, UpstreamBrowser, UpstreamSite

PEOPLE = """
from django.contrib.auth.models import Group, User
groups = [Group.objects.create(name=name) for name in ("chatters", "red team")]
for name in ("john", "j\\u00f6rg"):
    User.objects.create_user(name, password="secret").groups.set(groups)
User.objects.create_user("alone", password="secret")
"""


class Store:
    """A Redis, real or embedded, with a gateway on it."""

    def __init__(self, kind, port, gateway):
        self.kind = kind
        self.port = port
        self.url = f"redis://127.0.0.1:{port}"
        self.gateway = gateway
        self.redis = redis.Redis(port=port)
        self.started = []

    @functools.cache  # noqa: B019 - one gateway per set of settings, for the whole suite
    def another(self, **settings):
        """Returns another gateway on the same store, one per set of settings."""
        gateway = Gateway(redis__url=self.url, demo__enabled="off", **settings)
        self.started.append(gateway)
        return gateway

    def publish(self, *arguments, text=None, prefix=""):
        """Runs `ws4redis publish …` on this store."""
        return subprocess.run(
            [BINARY, "publish", *arguments],
            input=text,
            env=clean_environment(WS4REDIS_REDIS__URL=self.url, WS4REDIS_PREFIX=prefix),
            cwd=self.gateway.directory,
            capture_output=True,
            timeout=DEADLINE,
            check=False,
        )

    def stop(self):
        for process in self.started:
            process.stop()


@pytest.fixture(scope="session", params=["redis", "embedded"])
def store(request):
    if request.param == "redis":
        server = RedisServer()
        gateway = Gateway(redis__url=server.url)
        store = Store("redis", server.port, gateway)
        yield store
        store.stop()
        gateway.stop()
        server.stop()
    else:
        with embedded_gateway() as gateway:
            store = Store("embedded", EMBEDDED_PORT, gateway)
            assert "embedded_store" in store.redis.info(), "another server than the embedded store answers on port 6379"
            yield store
            store.stop()


@pytest.fixture
def gateway(store):
    return store.gateway


@pytest.fixture(scope="session")
def database(tmp_path_factory):
    """The site's database, with its users."""
    path = tmp_path_factory.mktemp("site") / "db.sqlite3"
    manage = [sys.executable, str(MANAGE)]
    for arguments in (["migrate", "-v0"], ["shell", "-c", PEOPLE]):
        done = subprocess.run(
            manage + arguments,
            env=clean_environment(SITE_DATABASE=path),
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
    return path


@pytest.fixture(scope="session")
def sites(store, database):
    """Returns a function that starts sites, one per set of settings."""
    made = {}

    def make(**settings):
        key = tuple(sorted(settings.items()))
        if key not in made:
            made[key] = UpstreamSite(store, database, **settings)
        return made[key]

    yield make
    for site in made.values():
        site.stop()


@pytest.fixture
def site(sites):
    return sites()


@pytest.fixture
def visitor(site):
    return UpstreamBrowser(site)


@pytest.fixture
def recorder(store):
    recorder = PubSubRecorder(store.redis)
    yield recorder
    recorder.close()
