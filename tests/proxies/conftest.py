import pytest
import redis
from fronts import Authority

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

    def begin(kind, **settings):
        started.append(kind(store, authority, **settings))
        return started[-1]

    yield begin
    for front in started:
        front.stop()


@pytest.fixture(scope="module")
def client(store):
    return redis.Redis(port=store.port)
