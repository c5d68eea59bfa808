"""Apache with the configuration that the documentation of django-websocket-redis recommends."""

import re

import pytest
from reverse_proxies import COOKIE, HOST, Apache

from harness import unique


class ApacheThatStrips(Apache):
    """The recommended `ProxyPass /ws/ ws://127.0.0.1:9090/`, without ProxyPreserveHost."""

    def write(self):
        super().write()
        site = self.home / "site.conf"
        ours = re.compile(r'ProxyPass "/ws/" "http(://127.0.0.1:\d+/)ws/" .*')
        text, count = ours.subn(r"ProxyPass /ws/ ws\1", site.read_text())
        assert count == 1
        site.write_text(text.replace("ProxyPreserveHost On", ""))


@pytest.fixture
def proxy(start):
    return start(ApacheThatStrips, server__websocket_url_stripped="true", server__trusted_proxies="127.0.0.1")


def test_apache_may_strip_the_prefix(proxy, client):
    facility = unique()
    client.set(f"broadcast:{facility}/a b", "kept")
    with proxy.connect(f"{facility}/a%20b") as browser:
        browser.expect("kept")


@pytest.mark.parametrize("origin, status", [(f"https://{HOST}", 101), ("https://evil.example", 403)])
def test_the_host_may_come_in_a_separate_header(proxy, origin, status):
    received, head, body = proxy.handshake(f"/ws/{unique()}?subscribe-broadcast", COOKIE, f"Origin: {origin}")
    assert received == status, head + body
