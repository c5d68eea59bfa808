"""The gateway gets the visitor's address and host from the proxy, never from the visitor's own headers."""

import pytest
from reverse_proxies import COOKIE, HOST, PROXIES, StubSite

from harness import unique

CLAIMS = ["X-Forwarded-For: 1.2.3.4", "X-Forwarded-Host: evil.example", "X-Forwarded-Proto: http"]
VISITOR = "127.0.0.9"


@pytest.fixture
def site():
    site = StubSite()
    yield site
    site.stop()


@pytest.mark.parametrize("kind", PROXIES, ids=lambda kind: kind.__name__)
def test_the_gateway_gets_the_address_that_the_proxy_saw(start, site, kind):
    proxy = start(
        kind,
        auth__callback_url=f"http://127.0.0.1:{site.port}/visitor/",
        # Makes the gateway forward these headers to the site as it received them.
        auth__callback_forward="X-Forwarded-For,X-Forwarded-Host,X-Forwarded-Proto",
    )
    status, body = proxy.fetch(
        *(f"/ws/{unique()}?publish-broadcast", "--data-binary", "hello", "--interface", VISITOR),
        headers=["X-WS4Redis: 1", *CLAIMS],
    )
    assert status == 204, body
    (headers,) = [headers for path, headers in site.requests if "flag=publish-broadcast" in path]
    assert headers["x-forwarded-for"] == VISITOR
    assert headers["x-forwarded-host"].split(":")[0] == HOST
    assert headers["x-forwarded-proto"] == "https"


@pytest.mark.parametrize("kind", PROXIES, ids=lambda kind: kind.__name__)
def test_the_headers_of_a_trusted_proxy_are_used(start, site, kind):
    proxy = start(
        kind,
        auth__callback_url=f"http://127.0.0.1:{site.port}/visitor/",
        server__trusted_proxies="unix" if kind.unix else "127.0.0.1",
    )
    status, body = proxy.fetch(
        *(f"/ws/{unique()}?publish-broadcast", "--data-binary", "hello", "--interface", VISITOR),
        headers=["X-WS4Redis: 1", *CLAIMS],
    )
    assert status == 204, body
    (headers,) = [headers for path, headers in site.requests if "flag=publish-broadcast" in path]
    assert headers["x-forwarded-for"] == VISITOR


@pytest.mark.parametrize("kind", PROXIES, ids=lambda kind: kind.__name__)
@pytest.mark.parametrize("origin, status", [(f"https://{HOST}", 101), ("https://evil.example", 403)])
def test_a_visitor_cannot_forge_the_host_through_a_trusted_proxy(start, kind, origin, status):
    proxy = start(kind, server__trusted_proxies="unix" if kind.unix else "127.0.0.1")
    received, head, body = proxy.handshake(
        *(f"/ws/{unique()}?subscribe-broadcast", COOKIE, f"Origin: {origin}"),
        *CLAIMS,
        "Forwarded: for=1.2.3.4;host=evil.example",
    )
    assert received == status, head + body
