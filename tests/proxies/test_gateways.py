"""Two gateways side by side, or one after the other."""

import contextlib

import pytest
from fronts import Caddy, Haproxy, NginxTwo, held
from websockets.exceptions import ConnectionClosed

from harness import DEADLINE, unique, until


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
                assert closed.rcvd.code == 1001
                left.append(browser)
        assert (len(stayed), len(left)) == (4, 4)
        # They come again at once, and nobody sees that one gateway is missing.
        browsers = stayed + [stack.enter_context(front.connect(facility)) for _ in left]
        assert front.post(facility, "to all")[0] == 204
        for browser in browsers:
            browser.expect("to all")
