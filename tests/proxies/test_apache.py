"""Apache as django-websocket-redis told people to set it up: without the prefix."""

import re

from fronts import Apache

from harness import unique


class ApacheThatStrips(Apache):
    def write(self):
        super().write()
        site = self.home / "site.conf"
        ours = re.compile(r'ProxyPass "/ws/" "http(://127.0.0.1:\d+/)ws/" .*')
        text, count = ours.subn(r"ProxyPass /ws/ ws\1", site.read_text())
        assert count == 1
        site.write_text(text)


def test_where_apache_takes_the_prefix_away_the_gateway_serves_everything(start, client):
    # As the second example of old: ProxyPass /ws/ ws://127.0.0.1:9090/
    front, facility = start(ApacheThatStrips, websocket_url="/"), unique()
    client.set(f"broadcast:{facility}", "kept")
    with front.connect(facility) as browser:
        browser.expect("kept")
