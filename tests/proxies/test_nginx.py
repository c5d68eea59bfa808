"""Features of nginx alone, and its common misconfigurations."""

import contextlib
import pathlib
import re
import shutil
import signal
import socket
import tempfile

import pytest
from reverse_proxies import COOKIE, HOST, Nginx, NginxAuthRequest, NginxTwo, NginxUnix, connection_count
from websockets.exceptions import ConnectionClosed, InvalidStatus

from harness import DEADLINE, Gateway, Process, accepts, free_port, handshake, unique, until


def workers(proxy):
    """Returns the PIDs of an nginx's workers."""
    pid = proxy.server.process.pid
    return set(pathlib.Path(f"/proc/{pid}/task/{pid}/children").read_text().split())


def reload(proxy):
    """Reloads nginx; waits until new workers have replaced the old ones, and returns the old PIDs."""
    old = workers(proxy)
    proxy.server.process.send_signal(signal.SIGHUP)
    until(lambda: len(workers(proxy) - old), lambda count: count >= len(old), "new workers")
    return old


def test_a_reload_keeps_open_sockets_and_takes_new_ones(start, client):
    proxy, facility = start(Nginx), unique()
    with proxy.connect(facility) as before, proxy.stream(facility) as stream:
        stream.expect("retry:.*")
        old = reload(proxy)
        # New connections go to the new workers once the old ones have closed their listeners.
        with proxy.connect(facility) as after:
            client.publish(f"broadcast:{facility}", "after the reload")
            before.expect("after the reload")
            after.expect("after the reload")
            stream.expect("data: after the reload")
        # The old worker that holds the earlier connections still runs.
        assert workers(proxy) & old


class NginxWithShortShutdown(Nginx):
    main = {"worker_shutdown_timeout 1h;": "worker_shutdown_timeout 1s;"}


def test_a_client_disconnected_after_a_reload_reconnects_without_a_loss(start, client):
    proxy, facility = start(NginxWithShortShutdown), unique()
    with proxy.connect(facility) as browser:
        reload(proxy)
        with pytest.raises(ConnectionClosed):
            browser.socket.recv(timeout=DEADLINE)
    client.set(f"broadcast:{facility}", "published meanwhile")
    with proxy.connect(facility) as browser:
        browser.expect("published meanwhile")


@pytest.mark.parametrize("kind", [Nginx, NginxUnix])
def test_a_stopping_gateway_sends_1012_and_its_successor_takes_over(start, store, kind):
    proxy, facility = start(kind), unique()
    with proxy.connect(facility) as browser:
        gateway = proxy.backends[0].process
        gateway.terminate()
        browser.expect_close(1012)
        assert gateway.wait(DEADLINE) == 0
    with pytest.raises(InvalidStatus, match="502"):
        proxy.connect(facility)


@pytest.mark.parametrize("kind", [Nginx, NginxUnix, NginxTwo, NginxAuthRequest])
def test_an_event_source_retries_while_the_gateway_is_down(start, kind):
    proxy, accept = start(kind), ["Accept: text/event-stream"]
    for gateway in proxy.backends:
        gateway.process.terminate()
        assert gateway.process.wait(DEADLINE) == 0
    status, body = proxy.fetch("/ws/x?subscribe-broadcast", "-i", headers=accept)
    assert status == 200 and "text/event-stream" in body, body
    assert re.search(r"\nretry: [2-8]\d00\n\n$", body.replace("\r", "")), body
    # Our own client reads statuses, as do requests that do not accept an event stream.
    assert proxy.fetch("/ws/x?subscribe-broadcast&client=ws4redis", headers=accept)[0] == 502
    assert proxy.fetch("/ws/x?subscribe-broadcast")[0] == 502
    assert proxy.post("x", "posted")[0] == 502


def test_two_gateways_share_the_visitors_and_one_of_them_may_stop(start, store, client):
    proxy, facility = start(NginxTwo), unique()
    first, second = proxy.backends
    with contextlib.ExitStack() as stack:
        until(lambda: (connection_count(first), connection_count(second)), (0, 0), "no connections")
        browsers = [stack.enter_context(proxy.connect(facility)) for _ in range(8)]
        until(lambda: (connection_count(first), connection_count(second)), (4, 4), "an even split")

        first.process.terminate()
        assert first.process.wait(DEADLINE) == 0
        client.publish(f"broadcast:{facility}", "who is left?")
        stayed, left = [], []
        for browser in browsers:
            try:
                browser.expect("who is left?")
                stayed.append(browser)
            except ConnectionClosed as closed:
                assert closed.rcvd.code == 1012
                left.append(browser)
        assert (len(stayed), len(left)) == (4, 4)
        # Reconnects succeed: nginx uses the remaining gateway.
        browsers = stayed + [stack.enter_context(proxy.connect(facility)) for _ in left]
        client.publish(f"broadcast:{facility}", "to all")
        for browser in browsers:
            browser.expect("to all")

        # The restarted gateway gets all new connections until both have the same number.
        first = Gateway(port=first.port, redis__url=store.url)
        stack.callback(first.stop)
        until(lambda: connection_count(first), 0, "no connections")

        def reaches_first():
            with proxy.connect(facility):
                return connection_count(first) > 0

        until(reaches_first, True, "a connection to the restarted gateway")
        until(lambda: (connection_count(first), connection_count(second)), (0, 8), "only the open connections")
        browsers = [stack.enter_context(proxy.connect(facility)) for _ in range(6)]
        until(lambda: (connection_count(first), connection_count(second)), (6, 8), "all new connections")


def test_auth_request_admits_and_refuses(start):
    proxy, target = start(NginxAuthRequest), f"/ws/{unique()}?subscribe-broadcast"
    proxy.site.requests.clear()
    assert proxy.handshake(target)[0] == 101
    assert [path for path, _ in proxy.site.requests] == ["/may-connect/"]
    proxy.cookies = ("Cookie: welcome=no",)
    assert proxy.handshake(target)[0] == 403
    assert proxy.fetch(target, headers=["Accept: text/event-stream"])[0] == 403
    assert proxy.post(unique(), "refused")[0] == 403
    # The location is internal: from outside it is an ordinary missing page.
    assert proxy.fetch("/may-connect")[0] == 404


def test_requests_refused_by_auth_request_never_reach_the_gateway(start, client):
    proxy, facility = start(NginxAuthRequest), unique()
    proxy.cookies = ()
    assert proxy.post(facility, "refused")[0] == 403
    assert client.get(f"broadcast:{facility}") is None


class NginxWithoutWebSockets(Nginx):
    rule = ("location /ws/ {", "location /ws/ { if ($http_upgrade) { return 403; }")

    def write(self):
        super().write(lambda text: text.replace(*self.rule))


class NginxThatDropsTheHeader(NginxWithoutWebSockets):
    rule = ("proxy_set_header Upgrade $http_upgrade;", 'proxy_set_header Upgrade "";')


@pytest.mark.parametrize("kind, status", [(NginxWithoutWebSockets, 403), (NginxThatDropsTheHeader, 400)])
def test_event_streams_and_posts_pass_where_websockets_are_blocked(start, kind, status):
    proxy, facility = start(kind), unique()
    with pytest.raises(InvalidStatus, match=str(status)):
        proxy.connect(facility)
    with proxy.stream(facility) as stream:
        stream.expect("retry:.*")
        assert proxy.post(facility, "by another way")[0] == 204
        stream.expect("data: by another way")


class MisconfiguredNginx(Process):
    def __init__(self, gateway):
        self.ports = {"without_host": free_port(), "old": free_port()}
        conf = (pathlib.Path(__file__).parent / "misconfigured.conf").read_text()
        self.home = pathlib.Path(tempfile.mkdtemp(prefix="ws4redis-nginx-"))
        for name, value in {"gateway": gateway.port, "directory": self.home, **self.ports}.items():
            conf = conf.replace(f"{{{name}}}", str(value))
        (self.home / "nginx.conf").write_text(conf)
        program = shutil.which("nginx") or "/usr/sbin/nginx"
        super().__init__([program, "-p", self.home, "-c", self.home / "nginx.conf"])
        self.wait_until(lambda: all(map(accepts, self.ports.values())), "nginx")

    def handshake(self, proxy, *headers):
        with socket.create_connection(("127.0.0.1", self.ports[proxy]), DEADLINE) as connection:
            return handshake(connection, f"/ws/{unique()}?subscribe-broadcast", *headers, host=HOST)

    def stop(self):
        super().stop()
        shutil.rmtree(self.home, ignore_errors=True)


@pytest.fixture(scope="module")
def misconfigured(store):
    gateway = Gateway(redis__url=store.url)
    nginx = MisconfiguredNginx(gateway)
    yield nginx
    nginx.stop()
    gateway.stop()


def test_without_the_host_line_the_refusal_names_both_hosts_and_the_line(misconfigured):
    status, _, body = misconfigured.handshake("without_host", f"Origin: https://{HOST}", COOKIE)
    assert status == 403
    assert f"https://{HOST}" in body and "gateway" in body
    assert "proxy_set_header Host $http_host;" in body


def test_without_proxy_http_version_the_refusal_says_so(misconfigured):
    status, _, body = misconfigured.handshake("old")
    assert status == 400
    assert "proxy_http_version 1.1" in body
