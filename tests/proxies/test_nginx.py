"""What nginx alone can do, and what goes wrong with it."""

import contextlib
import pathlib
import re
import shutil
import signal
import socket
import tempfile

import pytest
from fronts import COOKIE, HOST, Nginx, NginxAuthRequest, NginxTwo, NginxUnix, held
from websockets.exceptions import ConnectionClosed, InvalidStatus

from harness import DEADLINE, Gateway, Process, accepts, free_port, handshake, unique, until


def workers(front):
    """The worker processes of an nginx."""
    pid = front.proxy.process.pid
    return set(pathlib.Path(f"/proc/{pid}/task/{pid}/children").read_text().split())


def reload(front):
    """Waits until all workers are new that take connections."""
    old = workers(front)
    front.proxy.process.send_signal(signal.SIGHUP)
    until(lambda: len(workers(front) - old), lambda count: count >= len(old), "new workers")
    return old


def test_a_reload_keeps_open_sockets_and_takes_new_ones(start, client):
    front, facility = start(Nginx), unique()
    with front.connect(facility) as before, front.stream(facility) as stream:
        stream.expect("retry:.*")
        old = reload(front)
        # New connections are served by the new workers as soon as the old ones have stopped to listen.
        with front.connect(facility) as after:
            client.publish(f"broadcast:{facility}", "after the reload")
            before.expect("after the reload")
            after.expect("after the reload")
            stream.expect("data: after the reload")
        # The old worker that holds them is still there.
        assert workers(front) & old


class NginxInHaste(Nginx):
    main = {"worker_shutdown_timeout 1h;": "worker_shutdown_timeout 1s;"}


def test_who_is_let_go_after_a_reload_connects_again_and_misses_nothing(start, client):
    front, facility = start(NginxInHaste), unique()
    with front.connect(facility) as browser:
        reload(front)
        with pytest.raises(ConnectionClosed):
            browser.socket.recv(timeout=DEADLINE)
    client.set(f"broadcast:{facility}", "said meanwhile")
    with front.connect(facility) as browser:
        browser.expect("said meanwhile")


@pytest.mark.parametrize("kind", [Nginx, NginxUnix])
def test_a_stopping_gateway_sends_1012_and_its_successor_takes_over(start, store, kind):
    front, facility = start(kind), unique()
    with front.connect(facility) as browser:
        gateway = front.behind[0].process
        gateway.terminate()
        browser.expect_close(1012)
        assert gateway.wait(DEADLINE) == 0
    with pytest.raises(InvalidStatus, match="502"):
        front.connect(facility)


@pytest.mark.parametrize("kind", [Nginx, NginxUnix, NginxTwo, NginxAuthRequest])
def test_an_event_source_retries_while_the_gateway_is_down(start, kind):
    front, accept = start(kind), ["Accept: text/event-stream"]
    for gateway in front.behind:
        gateway.process.terminate()
        assert gateway.process.wait(DEADLINE) == 0
    status, body = front.ask("/ws/x?subscribe-broadcast", "-i", headers=accept)
    assert status == 200 and "text/event-stream" in body, body
    assert re.search(r"\nretry: [2-8]\d00\n\n$", body.replace("\r", "")), body
    # Our own client reads statuses; so does whoever asks for no stream.
    assert front.ask("/ws/x?subscribe-broadcast&client=ws4redis", headers=accept)[0] == 502
    assert front.ask("/ws/x?subscribe-broadcast")[0] == 502
    assert front.post("x", "posted")[0] == 502


def test_two_gateways_share_the_visitors_and_one_of_them_may_stop(start, store, client):
    front, facility = start(NginxTwo), unique()
    first, second = front.behind
    with contextlib.ExitStack() as stack:
        until(lambda: (held(first), held(second)), (0, 0), "no connections")
        browsers = [stack.enter_context(front.connect(facility)) for _ in range(8)]
        until(lambda: (held(first), held(second)), (4, 4), "half of them each")

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
        # They come again, and nobody sees that one gateway is missing.
        browsers = stayed + [stack.enter_context(front.connect(facility)) for _ in left]
        client.publish(f"broadcast:{facility}", "to all")
        for browser in browsers:
            browser.expect("to all")

        # When it is back it gets all that come, until it has as many as the other.
        first = Gateway(port=first.port, redis__url=store.url)
        stack.callback(first.stop)
        until(lambda: held(first), 0, "no connections")

        def arrives():
            with front.connect(facility):
                return held(first) > 0

        until(arrives, True, "a connection to the gateway that is back")
        until(lambda: (held(first), held(second)), (0, 8), "only those that stay")
        browsers = [stack.enter_context(front.connect(facility)) for _ in range(6)]
        until(lambda: (held(first), held(second)), (6, 8), "all that come")


def test_auth_request_admits_and_refuses(start):
    front, target = start(NginxAuthRequest), f"/ws/{unique()}?subscribe-broadcast"
    front.site.asked.clear()
    assert front.handshake(target)[0] == 101
    assert [path for path, _ in front.site.asked] == ["/may-connect/"]
    front.cookies = ("Cookie: welcome=no",)
    assert front.handshake(target)[0] == 403
    assert front.ask(target, headers=["Accept: text/event-stream"])[0] == 403
    assert front.post(unique(), "not to be said")[0] == 403
    # Nobody asks from outside; there it is a page as any other.
    assert front.ask("/may-connect")[0] == 404


def test_requests_refused_by_auth_request_never_reach_the_gateway(start, client):
    front, facility = start(NginxAuthRequest), unique()
    front.cookies = ()
    assert front.post(facility, "not to be said")[0] == 403
    assert client.get(f"broadcast:{facility}") is None


class NginxWithoutWebSockets(Nginx):
    rule = ("location /ws/ {", "location /ws/ { if ($http_upgrade) { return 403; }")

    def write(self):
        super().write(lambda text: text.replace(*self.rule))


class NginxThatDropsTheHeader(NginxWithoutWebSockets):
    rule = ("proxy_set_header Upgrade $http_upgrade;", 'proxy_set_header Upgrade "";')


@pytest.mark.parametrize("kind, status", [(NginxWithoutWebSockets, 403), (NginxThatDropsTheHeader, 400)])
def test_event_streams_and_posts_pass_where_websockets_are_blocked(start, kind, status):
    front, facility = start(kind), unique()
    with pytest.raises(InvalidStatus, match=str(status)):
        front.connect(facility)
    with front.stream(facility) as stream:
        stream.expect("retry:.*")
        assert front.post(facility, "by another way")[0] == 204
        stream.expect("data: by another way")


class Mistakes(Process):
    def __init__(self, gateway):
        self.ports = {"without_host": free_port(), "old": free_port()}
        conf = (pathlib.Path(__file__).parent / "mistakes.conf").read_text()
        self.home = pathlib.Path(tempfile.mkdtemp(prefix="ws4redis-nginx-"))
        for name, value in {"gateway": gateway.port, "directory": self.home, **self.ports}.items():
            conf = conf.replace(f"{{{name}}}", str(value))
        (self.home / "nginx.conf").write_text(conf)
        program = shutil.which("nginx") or "/usr/sbin/nginx"
        super().__init__([program, "-p", self.home, "-c", self.home / "nginx.conf"])
        self.wait_until(lambda: all(map(accepts, self.ports.values())), "nginx")

    def handshake(self, front, *headers):
        with socket.create_connection(("127.0.0.1", self.ports[front]), DEADLINE) as connection:
            return handshake(connection, f"/ws/{unique()}?subscribe-broadcast", *headers, host=HOST)

    def stop(self):
        super().stop()
        shutil.rmtree(self.home, ignore_errors=True)


@pytest.fixture(scope="module")
def mistakes(store):
    gateway = Gateway(redis__url=store.url)
    nginx = Mistakes(gateway)
    yield nginx
    nginx.stop()
    gateway.stop()


def test_without_the_host_line_the_refusal_names_both_hosts_and_the_line(mistakes):
    status, _, body = mistakes.handshake("without_host", f"Origin: https://{HOST}", COOKIE)
    assert status == 403
    assert f"https://{HOST}" in body and "gateway" in body
    assert "proxy_set_header Host $host;" in body


def test_without_proxy_http_version_the_refusal_says_so(mistakes):
    status, _, body = mistakes.handshake("old")
    assert status == 400
    assert "proxy_http_version 1.1" in body
