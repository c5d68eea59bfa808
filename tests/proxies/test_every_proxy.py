"""The features that have to work behind every proxy."""

import json
import subprocess

import pytest
from reverse_proxies import COOKIE, HOST, PROXIES, IDLE, Stream, connections_to

from harness import DEADLINE, unique, until

BOTH = "subscribe-broadcast&publish-broadcast"
MIB = 1 << 20


@pytest.fixture(scope="module", params=PROXIES, ids=lambda kind: kind.__name__)
def proxy(request, store, authority):
    proxy = request.param(store, authority, **IDLE)
    yield proxy
    proxy.stop()


def test_two_browsers_and_django_exchange_messages(proxy, client):
    facility = unique()
    with proxy.connect(facility, f"{BOTH}&echo") as one, proxy.connect(facility) as other:
        one.send("from a browser")
        one.expect("from a browser")
        other.expect("from a browser")
        assert client.publish(f"broadcast:{facility}", "from Django") == len(proxy.backends)
        one.expect("from Django")
        other.expect("from Django")


def test_a_burst_arrives_whole(proxy, client):
    facility = unique()
    with proxy.connect(facility) as browser:
        burst = [f"{number}" for number in range(2000)]
        with client.pipeline(transaction=False) as pipe:
            for message in burst:
                pipe.publish(f"broadcast:{facility}", message)
            pipe.execute()
        browser.expect(*burst)


def test_the_last_message_is_replayed_and_the_facility_passes_undecoded(proxy, client):
    own = unique()
    client.set(f"broadcast:{own}/a b/é?%//;", "kept")
    with proxy.connect(f"{own}%2Fa%20b/%C3%A9%3F%25//%3B") as browser:
        browser.expect("kept")


def test_large_messages_pass_both_ways(proxy, client):
    facility = unique()
    with proxy.connect(facility) as subscriber, proxy.connect(facility, "publish-broadcast") as publisher:
        publisher.send("x" * MIB)
        subscriber.expect("x" * MIB)
        client.publish(f"broadcast:{facility}", "y" * 5 * MIB)
        subscriber.expect("y" * 5 * MIB)


def test_close_codes_arrive(proxy):
    with proxy.connect(unique(), "publish-broadcast") as browser:
        # The header of an oversized frame; the gateway does not wait for the payload.
        browser.socket.socket.sendall(b"\x82\xff" + (MIB + 1).to_bytes(8, "big") + b"mask")
        browser.expect_close(1009)


@pytest.mark.parametrize("http, version", [("--http1.1", r"1\.1"), ("--http2", "2")])
def test_a_stream_of_events_comes_as_it_is_sent(proxy, client, http, version):
    facility = unique()
    client.set(f"broadcast:{facility}", "kept")
    with proxy.stream(facility, http) as stream:
        stream.expect(rf"HTTP/{version} 200.*")
        stream.expect("data: kept")
        for number in range(3):
            # Publishing the next one after this one arrived proves that the proxy does not buffer.
            client.publish(f"broadcast:{facility}", f"live {number}")
            stream.expect(f"data: live {number}")


def test_a_dozen_streams_share_one_connection(proxy, client):
    # Over HTTP/1.1 a browser's seventh page would hang: browsers open six connections per host.
    facility, count = unique(), proxy.streams
    urls = [proxy.curl(f"/ws/{facility}?subscribe-broadcast&n={number}")[-1] for number in range(1, count)]
    command = proxy.curl(
        *(f"/ws/{facility}?subscribe-broadcast", "--http2", "--no-progress-meter", "--parallel"),
        headers=["Accept: text/event-stream"],
    )
    with Stream([*command, *urls]) as streams:
        for _ in range(count):
            streams.expect("retry: .*")
        assert connections_to(proxy.port, streams.process.pid) == 1
        client.publish(f"broadcast:{facility}", "to all pages")
        for _ in range(count):
            streams.expect("data: to all pages")


def test_an_idle_stream_stays(proxy, client):
    facility = unique()
    with proxy.stream(facility) as stream:
        for _ in range(2):
            stream.expect(":.*")
        client.publish(f"broadcast:{facility}", "still here")
        stream.expect("data: still here")


def test_posts_are_published_in_full(proxy, client):
    facility = unique()
    with proxy.connect(facility) as browser:
        assert proxy.post(facility, "posted") == (204, "")
        browser.expect("posted")
        with subprocess.Popen(["head", "-c", str(MIB), "/dev/zero"], stdout=subprocess.PIPE) as zeros:
            command = proxy.curl(
                *(f"/ws/{facility}?publish-broadcast", "--data-binary", "@-", "-w", "%{http_code}"),
                headers=["X-WS4Redis: 1", "Expect:"],
            )
            done = subprocess.run(command, stdin=zeros.stdout, capture_output=True, timeout=DEADLINE * 4)
        assert done.stdout == b"204"
        browser.expect("\0" * MIB)


def test_pings_and_their_answers_pass(proxy):
    with proxy.connect(unique(), f"{BOTH}&echo") as browser:
        # The library answers pings by itself, so this wrapper counts them.
        protocol, seen = browser.socket.protocol, []
        recv_frame = protocol.recv_frame
        protocol.recv_frame = lambda frame: (seen.append(frame.opcode.name), recv_frame(frame))[1]
        until(lambda: seen.count("PING"), lambda count: count >= 2, "two pings")
        browser.send("still here")
        browser.expect("still here")


@pytest.mark.parametrize(
    "origin, status",
    [(f"https://{HOST}", 101), ("https://evil.example", 403), ("null", 403)],
)
def test_the_origin_rule_holds(proxy, origin, status):
    received, head, body = proxy.handshake(f"/ws/{unique()}?subscribe-broadcast", COOKIE, f"Origin: {origin}")
    assert received == status, head + body


def test_the_site_gets_the_headers_that_the_proxy_set(proxy):
    status, body = proxy.fetch("/a/page?x=1", headers=["X-Forwarded-For: 1.2.3.4", "X-Forwarded-Host: evil.example"])
    received = json.loads(body)
    assert (status, received["path"]) == (200, "/a/page?x=1")
    headers = received["headers"]
    assert headers["x-forwarded-proto"] == "https"
    # With the port: Django compares it with the Origin of a POST.
    assert headers["host"] == f"{HOST}:{proxy.port}"
    # Only the values that the proxy itself has set.
    assert headers["x-forwarded-for"] == "127.0.0.1"
    assert headers.get("x-forwarded-host", HOST).split(":")[0] == HOST


@pytest.mark.parametrize("path", ["/ws4redis/identity/", "/%77s4redis/identity/", "/ws4redis%2Fidentity/"])
def test_the_callback_view_is_not_public(proxy, path):
    # Django decodes a path before it resolves it.
    status, _ = proxy.fetch(path)
    assert status in (403, 404)
    assert not [path for path, _ in proxy.site.requests if "identity" in path]


def test_static_files_are_served(proxy):
    # Caddy, nginx and Apache serve files; HAProxy forwards the request to the site.
    status, body = proxy.fetch("/static/page.css")
    assert status == 200
    assert body == "body {}" or type(proxy).__name__ == "Haproxy"


def test_http_goes_to_https(proxy):
    options = ["--resolve", f"{HOST}:{proxy.plain}:127.0.0.1", "--noproxy", "*", "-w", "%{http_code} %{redirect_url}"]
    command = ["curl", "-s", "-o", "/dev/null", "--max-time", "10", *options, f"http://{HOST}:{proxy.plain}/a?b=c"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=DEADLINE * 2)
    status, _, location = done.stdout.partition(" ")
    assert status in ("301", "302", "308")
    assert location.startswith(f"https://{HOST}") and location.endswith("/a?b=c")


def test_tokens_in_addresses_are_not_logged(proxy):
    own = unique()
    with proxy.connect(own, "subscribe-broadcast&access_token=SECRET"):
        pass
    logged = until(proxy.logged, lambda text: own in text, "the log line")
    assert "SECRET" not in logged
