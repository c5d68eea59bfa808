import pytest
import redis
from reverse_proxies import Authority

from harness import RedisServer


@pytest.fixture(scope="session")
def store():
    server = RedisServer()
    yield server
    server.stop()


@pytest.fixture(scope="session")
def authority(tmp_path_factory):
    return Authority(tmp_path_factory.mktemp("authority"))


@pytest.fixture
def start(store, authority):
    started = []

    def start_proxy(kind, **settings):
        started.append(kind(store, authority, **settings))
        return started[-1]

    yield start_proxy
    for proxy in started:
        proxy.stop()


@pytest.fixture(scope="module")
def client(store):
    return redis.Redis(port=store.port)
