import pytest
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
