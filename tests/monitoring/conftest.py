import pytest
from prometheus import Prometheus

from harness import Gateway, RedisServer, free_port, unique, until


@pytest.fixture(scope="module")
def store():
    server = RedisServer()
    yield server
    server.stop()


@pytest.fixture(scope="module")
def admin():
    return f"127.0.0.1:{free_port()}"


@pytest.fixture(scope="module")
def gateway(store, admin):
    gateway = Gateway(redis__url=store.url, admin__listen=admin)
    yield gateway
    gateway.stop()


@pytest.fixture(scope="module")
def prometheus(gateway, admin, tmp_path_factory):
    server = Prometheus(tmp_path_factory.mktemp("prometheus"), admin)
    yield server
    server.stop()


@pytest.fixture(scope="module")
def traffic(gateway, prometheus):
    """A client that has sent messages and received them, between two scrapes at least."""
    facility = unique()
    with gateway.connect(facility, "subscribe-broadcast&publish-broadcast&echo") as client:
        for _ in range(3):
            client.send("hello")
            client.expect("hello")
        until(lambda: prometheus.query('up{job="ws4redis"} == 1'), bool, "a scrape", 20)
        until(lambda: prometheus.query("count_over_time(ws4redis_connections[1m]) > 2"), bool, "three scrapes", 20)
        client.send("hello")
        client.expect("hello")
        yield client
