"""Two gateways side by side, or one after the other; and one behind a unix socket."""

import contextlib
import ctypes
import os
import signal
import socket
import struct

import pytest
from fronts import Caddy, Haproxy, NginxTwo, held
from websockets.exceptions import ConnectionClosed, InvalidHandshake

from harness import DEADLINE, Gateway, handshake, unique, until


@pytest.mark.parametrize("kind", [NginxTwo, Haproxy, Caddy])
def test_one_of_two_gateways_may_stop(start, client, kind):
    front, facility = start(kind), unique()
    first, second = front.behind
    with contextlib.ExitStack() as stack:
        until(lambda: held(first) + held(second), lambda count: count <= 2, "no connections but for checks")
        browsers = [stack.enter_context(front.connect(facility)) for _ in range(8)]
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
        # They come again at once, and nobody sees that one gateway is missing.
        browsers = stayed + [stack.enter_context(front.connect(facility)) for _ in left]
        assert front.post(facility, "to all")[0] == 204
        for browser in browsers:
            browser.expect("to all")


@pytest.mark.parametrize("kind", [NginxTwo, Haproxy, Caddy])
def test_a_gateway_that_was_restarted_gets_the_new_visitors(start, kind, store):
    front, facility = start(kind), unique()
    first, second = front.behind
    with contextlib.ExitStack() as stack:
        first.process.terminate()
        assert first.process.wait(DEADLINE) == 0
        # Some of them find out that it is not there.
        for _ in range(12):
            stack.enter_context(front.connect(facility))
        front.behind[0] = Gateway(port=first.port, redis__url=store.url)
        front.stopping.append(front.behind[0])

        # HAProxy and Caddy look again every two seconds.
        def visitors_there():
            stack.enter_context(front.connect(facility))
            return held(first)

        until(visitors_there, lambda count: count >= 8, "new visitors go to the emptier one")


@pytest.mark.parametrize("kind", [Haproxy, Caddy])
def test_a_gateway_that_hangs_is_left_out(start, kind):
    front, facility = start(kind), unique()
    hanging = front.behind[0].process
    hanging.send_signal(signal.SIGSTOP)
    try:
        # Its kernel still accepts connections, so only a probe of the process can tell.
        def all_are_served():
            with contextlib.ExitStack() as stack, contextlib.suppress(OSError, InvalidHandshake):
                # As long as these stay, the other gateway has fewer connections and would be preferred.
                for _ in range(6):
                    stack.enter_context(front.connect(facility, open_timeout=1))
                return True
            return False

        until(all_are_served, True, "six visitors in a row are served", DEADLINE * 3)
    finally:
        hanging.send_signal(signal.SIGCONT)


def test_an_event_source_comes_again_while_no_gateway_is_there(start):
    front, accept = start(Caddy), ["Accept: text/event-stream"]
    for gateway in front.behind:
        gateway.process.terminate()
        assert gateway.process.wait(DEADLINE) == 0
    status, body = front.ask("/ws/x?subscribe-broadcast", "-i", headers=accept)
    assert status == 200 and "text/event-stream" in body, body
    assert body.replace("\r", "").endswith("\n\nretry: 5000\n\n"), body
    assert front.ask("/ws/x?subscribe-broadcast&client=ws4redis", headers=accept)[0] in (502, 503)
    assert front.ask("/ws/x?subscribe-broadcast")[0] in (502, 503)


def test_whoever_connects_to_a_unix_socket_may_have_the_longest_of_names(store, tmp_path):
    gateway = Gateway(listen=f"unix:{tmp_path}/gateway", redis__url=f"redis://127.0.0.1:{store.port}/0")
    try:
        # 108 bytes, which leave no room for the end of a string. Python itself binds to no more than 107.
        name = f"{tmp_path}/".ljust(108, "x")
        address = struct.pack("=H", socket.AF_UNIX) + name.encode()
        for _ in range(2):
            with socket.socket(socket.AF_UNIX) as visitor:
                visitor.settimeout(DEADLINE)
                assert ctypes.CDLL(None).bind(visitor.fileno(), address, len(address)) == 0
                visitor.connect(f"{tmp_path}/gateway")
                assert handshake(visitor, "/ws/long?subscribe-broadcast")[0] == 101
            os.unlink(name)
    finally:
        gateway.stop()
