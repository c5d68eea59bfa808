"""What the gateway is told of visitors' addresses: what the proxy has seen, never what a visitor claims."""

import pytest
from fronts import COOKIE, FRONTS, HOST, Site

from harness import unique

CLAIMS = ["X-Forwarded-For: 1.2.3.4", "X-Forwarded-Host: evil.example", "X-Forwarded-Proto: http"]
VISITOR = "127.0.0.9"


@pytest.fixture
def site():
    site = Site()
    yield site
    site.stop()


@pytest.mark.parametrize("kind", FRONTS, ids=lambda kind: kind.__name__)
def test_the_gateway_gets_the_address_that_the_proxy_saw(start, site, kind):
    front = start(
        kind,
        auth__callback_url=f"http://127.0.0.1:{site.port}/who/",
        # So that the site sees these headers as the gateway has got them.
        auth__callback_forward="X-Forwarded-For,X-Forwarded-Host,X-Forwarded-Proto",
    )
    status, body = front.ask(
        *(f"/ws/{unique()}?publish-broadcast", "--data-binary", "hello", "--interface", VISITOR),
        headers=["X-WS4Redis: 1", *CLAIMS],
    )
    assert status == 204, body
    (headers,) = [headers for path, headers in site.asked if "flag=publish-broadcast" in path]
    assert headers["x-forwarded-for"] == VISITOR
    assert headers["x-forwarded-host"].split(":")[0] == HOST
    assert headers["x-forwarded-proto"] == "https"


@pytest.mark.parametrize("kind", FRONTS, ids=lambda kind: kind.__name__)
def test_the_headers_of_a_trusted_proxy_are_used(start, site, kind):
    front = start(
        kind,
        auth__callback_url=f"http://127.0.0.1:{site.port}/who/",
        server__trusted_proxies="unix" if kind.unix else "127.0.0.1",
    )
    status, body = front.ask(
        *(f"/ws/{unique()}?publish-broadcast", "--data-binary", "hello", "--interface", VISITOR),
        headers=["X-WS4Redis: 1", *CLAIMS],
    )
    assert status == 204, body
    (headers,) = [headers for path, headers in site.asked if "flag=publish-broadcast" in path]
    assert headers["x-forwarded-for"] == VISITOR


@pytest.mark.parametrize("kind", FRONTS, ids=lambda kind: kind.__name__)
@pytest.mark.parametrize("origin, status", [(f"https://{HOST}", 101), ("https://evil.example", 403)])
def test_a_visitor_cannot_forge_the_host_through_a_trusted_proxy(start, kind, origin, status):
    front = start(kind, server__trusted_proxies="unix" if kind.unix else "127.0.0.1")
    got, head, body = front.handshake(
        *(f"/ws/{unique()}?subscribe-broadcast", COOKIE, f"Origin: {origin}"),
        *CLAIMS,
        "Forwarded: for=1.2.3.4;host=evil.example",
    )
    assert got == status, head + body
