"""Socket.IO clients that poll, behind proxies with two gateways."""

import json

import pytest
from reverse_proxies import Caddy, Haproxy, Nginx, NginxTwo, NginxUnix

from harness import DEADLINE, unique

PATH = "/socket.io/?EIO=4&transport=polling"
EMIT = {"method": "emit", "event": "news", "data": ["Hello"], "binary": False, "namespace": "/", "host_id": "django"}


class Poller:
    """A client of Engine.IO 4 that polls with a session cookie; the session is unknown, so it is anonymous."""

    def __init__(self, proxy):
        self.proxy, self.cookie = proxy, f"Cookie: sessionid={unique()}"
        status, body = self.request()
        assert status == 200 and body.startswith("0{"), (status, body)
        self.target = f"&sid={json.loads(body[1:])['sid']}"
        assert self.request("--data-binary", "40", target=self.target) == (200, "ok")
        status, body = self.request(target=self.target)
        assert status == 200 and body.startswith("40{"), (status, body)

    def request(self, *options, target=""):
        return self.proxy.fetch(PATH + target, *options, headers=[self.cookie])

    def poll(self):
        return self.request(target=self.target)


@pytest.mark.parametrize("kind", [Nginx, NginxUnix, NginxTwo, Haproxy, Caddy])
def test_all_requests_of_a_client_reach_its_gateway(start, client, kind):
    proxy = start(kind, socketio__enabled="true")
    pollers = [Poller(proxy) for _ in range(6)]
    client.publish("socketio", json.dumps(EMIT))
    assert [poller.poll() for poller in pollers] == [(200, '42["news","Hello"]')] * len(pollers)


@pytest.mark.parametrize("kind", [NginxTwo, Haproxy, Caddy])
def test_clients_of_a_gateway_that_stops_start_anew_at_the_other(start, client, kind):
    proxy = start(kind, socketio__enabled="true")
    pollers = [Poller(proxy) for _ in range(12)]
    first = proxy.backends[0]
    first.process.terminate()
    assert first.process.wait(DEADLINE) == 0
    client.publish("socketio", json.dumps(EMIT))
    answers = [poller.poll() for poller in pollers]
    stayed = [answer for answer in answers if answer == (200, '42["news","Hello"]')]
    unknown = [answer for answer in answers if answer[0] == 400 and json.loads(answer[1])["code"] == 1]
    assert len(stayed) + len(unknown) == len(pollers), answers
    # By address: all clients of this test have the same one.
    assert kind is Caddy or (stayed and unknown), answers
    Poller(proxy)
