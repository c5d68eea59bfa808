"""Two gateways behind one proxy, a restarted gateway, and a gateway on a unix socket."""

import contextlib
import ctypes
import os
import signal
import socket
import struct

import pytest
from reverse_proxies import Caddy, Haproxy, NginxTwo, connection_count
from websockets.exceptions import ConnectionClosed, InvalidHandshake

from harness import DEADLINE, Gateway, handshake, unique, until


@pytest.mark.parametrize("kind", [NginxTwo, Haproxy, Caddy])
def test_one_of_two_gateways_may_stop(start, client, kind):
    proxy, facility = start(kind), unique()
    first, second = proxy.backends
    with contextlib.ExitStack() as stack:
        # Caddy keeps the connections of its checks open: two blocks check each gateway.
        until(lambda: connection_count(first) + connection_count(second), lambda count: count <= 4, "no connections but for checks")
        browsers = [stack.enter_context(proxy.connect(facility)) for _ in range(8)]
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
        # Reconnects succeed at once: the proxy uses the remaining gateway.
        browsers = stayed + [stack.enter_context(proxy.connect(facility)) for _ in left]
        assert proxy.post(facility, "to all")[0] == 204
        for browser in browsers:
            browser.expect("to all")


@pytest.mark.parametrize("kind", [NginxTwo, Haproxy, Caddy])
def test_a_gateway_that_was_restarted_gets_the_new_visitors(start, kind, store):
    proxy, facility = start(kind), unique()
    first, second = proxy.backends
    with contextlib.ExitStack() as stack:
        first.process.terminate()
        assert first.process.wait(DEADLINE) == 0
        # Failed attempts make the proxy mark the gateway as down.
        for _ in range(12):
            stack.enter_context(proxy.connect(facility))
        proxy.backends[0] = Gateway(port=first.port, redis__url=store.url)
        proxy.to_stop.append(proxy.backends[0])

                # HAProxy and Caddy probe the gateway every two seconds.
        def connected_to_first():
            stack.enter_context(proxy.connect(facility))
            return connection_count(first)

        until(connected_to_first, lambda count: count >= 8, "new connections to the gateway with fewer connections")


@pytest.mark.parametrize("kind", [Haproxy, Caddy])
def test_a_gateway_that_hangs_is_left_out(start, kind):
    proxy, facility = start(kind), unique()
    hanging = proxy.backends[0].process
    hanging.send_signal(signal.SIGSTOP)
    try:
        # The kernel still accepts connections, so only an HTTP probe detects the hang.
        def all_are_served():
            with contextlib.ExitStack() as stack, contextlib.suppress(OSError, InvalidHandshake):
                # While these are open, the hanging gateway has fewer connections and would be preferred.
                for _ in range(6):
                    stack.enter_context(proxy.connect(facility, open_timeout=1))
                return True
            return False

        until(all_are_served, True, "six visitors in a row are served", DEADLINE * 3)
    finally:
        hanging.send_signal(signal.SIGCONT)


def test_an_event_source_retries_while_no_gateway_runs(start):
    proxy, accept = start(Caddy), ["Accept: text/event-stream"]
    for gateway in proxy.backends:
        gateway.process.terminate()
        assert gateway.process.wait(DEADLINE) == 0
    status, body = proxy.fetch("/ws/x?subscribe-broadcast", "-i", headers=accept)
    assert status == 200 and "text/event-stream" in body, body
    assert body.replace("\r", "").endswith("\n\nretry: 5000\n\n"), body
    assert proxy.fetch("/ws/x?subscribe-broadcast&client=ws4redis", headers=accept)[0] in (502, 503)
    assert proxy.fetch("/ws/x?subscribe-broadcast")[0] in (502, 503)


def test_a_client_of_a_unix_socket_may_have_an_address_of_maximum_length(store, tmp_path):
    gateway = Gateway(listen=f"unix:{tmp_path}/gateway", redis__url=f"redis://127.0.0.1:{store.port}/0")
    try:
        # 108 bytes, without a terminating zero. Python itself binds to at most 107.
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
