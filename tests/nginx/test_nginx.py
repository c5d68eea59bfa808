"""The gateway behind a real nginx, over TCP and over a unix socket."""

import pathlib
import shutil
import socket
import tempfile

import pytest
import redis

from harness import DEADLINE, Client, Gateway, Process, RedisServer, accepts, free_port, handshake, unique

CONF = pathlib.Path(__file__).parent / "nginx.conf"
FRONTS = ["front_tcp", "front_unix"]
STRIPPED = {"server__websocket_url_stripped": "true", "server__trusted_proxies": "127.0.0.1"}
COOKIE = "Cookie: sessionid=wnqd0gbw5obpnj50zwh6yaq2yz4o8g9x"


class Nginx(Process):
    def __init__(self, **values):
        self.ports = {name: free_port() for name in (*FRONTS, "front_stripped", "front_without_host", "front_old")}
        conf = CONF.read_text()
        self.home = pathlib.Path(tempfile.mkdtemp(prefix="ws4redis-nginx-"))
        for name, value in {**values, **self.ports, "directory": self.home}.items():
            conf = conf.replace(f"{{{name}}}", str(value))
        (self.home / "nginx.conf").write_text(conf)
        program = shutil.which("nginx") or "/usr/sbin/nginx"
        super().__init__([program, "-p", self.home, "-c", self.home / "nginx.conf"])
        self.wait_until(lambda: all(map(accepts, self.ports.values())), "nginx")

    def url(self, front, facility, flags="subscribe-broadcast"):
        return f"ws://127.0.0.1:{self.ports[front]}/ws/{facility}?{flags}"

    def handshake(self, front, target, *headers, host):
        with socket.create_connection(("127.0.0.1", self.ports[front]), DEADLINE) as connection:
            return handshake(connection, target, *headers, host=host)

    def stop(self):
        super().stop()
        shutil.rmtree(self.home, ignore_errors=True)


@pytest.fixture(scope="module")
def store():
    server = RedisServer()
    yield server
    server.stop()


def gateways(store, directory):
    settings = {"redis__url": store.url, "messages__max_message_bytes": "1000"}
    path = directory / "ws.socket"
    # nginx runs as somebody else on most machines; here it is the same person.
    return Gateway(**settings), Gateway(listen=f"unix:{path}", **settings), path


@pytest.fixture(scope="module")
def nginx(store, tmp_path_factory):
    tcp, unix, path = gateways(store, tmp_path_factory.mktemp("socket"))
    stripped = Gateway(redis__url=store.url, **STRIPPED)
    nginx = Nginx(tcp_port=tcp.port, unix_path=path, stripped_port=stripped.port)
    yield nginx
    for process in (nginx, tcp, unix, stripped):
        process.stop()


@pytest.mark.parametrize("front", FRONTS)
def test_messages_pass_both_ways(nginx, store, front):
    facility = unique()
    client = redis.Redis(port=store.port)
    with Client(nginx.url(front, facility, "subscribe-broadcast&publish-broadcast&echo")) as browser:
        assert client.publish(f"broadcast:{facility}", "Hello") == 1
        browser.expect("Hello")
        browser.send("from the browser")
        browser.expect("from the browser")
        burst = [f"{number}" for number in range(2000)]
        with client.pipeline(transaction=False) as pipe:
            for message in burst:
                pipe.publish(f"broadcast:{facility}", message)
            pipe.execute()
        browser.expect(*burst)
        client.publish(f"broadcast:{facility}", "x" * 1_000_000)
        browser.expect("x" * 1_000_000)


@pytest.mark.parametrize("front", FRONTS)
def test_a_facility_passes_undecoded(nginx, store, front):
    own = unique()
    client = redis.Redis(port=store.port)
    client.set(f"broadcast:{own}/a b/é", "kept")
    with Client(nginx.url(front, f"{own}%2Fa%20b/%C3%A9")) as browser:
        browser.expect("kept")


def test_a_facility_passes_where_the_prefix_is_taken_away(nginx, store):
    own = unique()
    client = redis.Redis(port=store.port)
    client.set(f"broadcast:{own}/a b", "kept")
    with Client(nginx.url("front_stripped", f"{own}/a%20b")) as browser:
        browser.expect("kept")


@pytest.mark.parametrize("front", FRONTS)
def test_the_gateways_close_codes_arrive(nginx, front):
    with Client(nginx.url(front, unique(), "publish-broadcast")) as browser:
        browser.send("x" * 1001)
        browser.expect_close(1009)


@pytest.mark.parametrize("front", FRONTS)
def test_a_stopping_gateway_sends_1001_through_nginx(store, tmp_path, front):
    tcp, unix, path = gateways(store, tmp_path)
    nginx = Nginx(tcp_port=tcp.port, unix_path=path, stripped_port=tcp.port)
    try:
        with Client(nginx.url(front, unique())) as browser:
            gateway = tcp if front == "front_tcp" else unix
            gateway.process.terminate()
            browser.expect_close(1001)
            assert gateway.process.wait(DEADLINE) == 0
    finally:
        for process in (nginx, tcp, unix):
            process.stop()


@pytest.mark.parametrize("front", [*FRONTS, "front_stripped"])
@pytest.mark.parametrize(
    "host, origin, status",
    [
        ("www.example.com", "https://www.example.com", 101),
        ("www.example.com:8080", "http://www.example.com:8080", 101),
        ("www.example.com", "https://evil.example", 403),
        ("www.example.com", "null", 403),
    ],
)
def test_the_origin_rule_holds_with_the_host_line(nginx, front, host, origin, status):
    got, head, body = nginx.handshake(
        front, f"/ws/{unique()}?subscribe-broadcast", f"Origin: {origin}", COOKIE, host=host
    )
    assert got == status, head + body


def test_without_the_host_line_the_refusal_names_both_hosts_and_the_line(nginx):
    status, _, body = nginx.handshake(
        *("front_without_host", f"/ws/{unique()}?subscribe-broadcast"),
        *("Origin: https://www.example.com", COOKIE),
        host="www.example.com",
    )
    assert status == 403
    assert "https://www.example.com" in body and "gateway_tcp" in body
    assert "proxy_set_header Host $host;" in body


def test_without_proxy_http_version_the_refusal_says_so(nginx):
    status, _, body = nginx.handshake("front_old", f"/ws/{unique()}?subscribe-broadcast", host="www.example.com")
    assert status == 400
    assert "proxy_http_version 1.1" in body
