"""What stands behind the browsers: Redis, gateways, the Django site, and a proxy with its file of docs/deploy.

    python world.py Nginx|Haproxy|Caddy FIRST_PORT

Each line of the input is `["method of World", argument…]` as JSON, and is answered with a line: `{"answer": …}` or
`{"error": …}`. The end of the input ends everything.
"""

import base64
import contextlib
import hashlib
import hmac
import itertools
import json
import os
import pathlib
import random
import signal
import sys
import tempfile
import time
import traceback

TESTS = pathlib.Path(__file__).resolve().parents[1]
sys.path[:0] = map(str, (TESTS, TESTS / "e2e", TESTS / "proxies"))

import fronts  # noqa: E402
from fronts import HOST  # noqa: E402
from worlds import SECRET_KEY, Site, make_database, manage  # noqa: E402

import harness  # noqa: E402
from harness import DEADLINE, UPGRADE, Gateway, RedisServer, accepts, unique, until  # noqa: E402

HEARTBEAT = "--heartbeat--"
NEIGHBOUR = "other.example.com"
"""Another origin, to whose pages browsers nevertheless send the site's cookies."""

TOKEN_KEY = b"a secret of the browsers' tests, which has to be as long as this"
EACH = 100
"""Ports for one world."""

FOREIGN = """
server {{
    listen 127.0.0.1:{port} ssl http2;
    server_name {name};
    ssl_certificate {chain};
    ssl_certificate_key {key};
    location / {{ default_type text/html; return 200 "<!doctype html><script src=/js/ws4redis.js></script>"; }}
    location /js/ {{ alias {static}/js/; }}
}}
"""


class Django(Site):
    def ready(self):
        # It answers to no name but the proxy's.
        self.wait_until(lambda: accepts(self.port), "Django")


class RealSite:
    """A front with Django behind it, and Django's static files where the proxy looks for them."""

    def open_site(self, store):
        variables = {
            "redis": f"{store.url}/0",
            "database": self.home / "site.sqlite3",
            "static_root": self.static,
            "heartbeat": HEARTBEAT,
            "secret_key": SECRET_KEY,
            "hosts": HOST,
        }
        make_database(variables["database"])
        for words in (["make_people"], ["collectstatic", "--noinput", "-v0"]):
            code, output = manage(*words, **variables)
            assert code == 0, output
        site = Django(**variables)
        site.ready()
        return site


class Nginx(RealSite, fronts.Nginx):
    blocked = False

    def write(self):
        """The shipped file, with the network's veto where it is to be; and a foreign site beside it."""
        veto = ("location /ws/ {", "location /ws/ { if ($http_upgrade) { return 403; }") if self.blocked else ("", "")
        super().write(lambda text: text.replace(*veto) + self.foreign())

    def foreign(self):
        return FOREIGN.format(
            port=self.port,
            name=NEIGHBOUR,
            chain=self.authority.chain,
            key=self.authority.key,
            static=self.static,
        )


class Haproxy(RealSite, fronts.Haproxy):
    pass


class Caddy(RealSite, fronts.Caddy):
    pass


class World:
    def __init__(self, kind):
        self.stack = contextlib.ExitStack()
        try:
            self.home = pathlib.Path(self.stack.enter_context(tempfile.TemporaryDirectory(prefix="ws4redis-site-")))
            # Sessions outlive a restart, as they do on sites that keep theirs in Redis.
            self.options = ["--appendonly", "yes", "--dir", str(self.home)]
            self.store = RedisServer(*self.options)
            self.stack.callback(lambda: self.store.stop())
            key = self.home / "token.key"
            key.write_bytes(TOKEN_KEY)
            self.settings = {
                "redis__url": f"{self.store.url}/0",
                "heartbeat": HEARTBEAT,
                "server__trusted_proxies": "127.0.0.1",
                "auth__jwt__algorithm": "HS256",
                "auth__jwt__key_file": key,
            }
            self.front = kind(self.store, fronts.Authority(self.home), **self.settings)
            self.stack.callback(self.front.stop)
        except BaseException:
            self.stop()
            raise

    def stop(self):
        self.gateways(signal.SIGCONT)
        self.stack.close()

    def where(self):
        """What browsers have to know."""
        return {"host": HOST, "neighbour": NEIGHBOUR, "port": self.front.port, "heartbeat": HEARTBEAT}

    # ---- What happens to the gateways

    def gateways(self, number):
        for gateway in getattr(getattr(self, "front", None), "behind", ()):
            with contextlib.suppress(ProcessLookupError):
                os.kill(gateway.process.pid, number)

    def freeze_gateways(self):
        self.gateways(signal.SIGSTOP)

    def thaw_gateways(self):
        self.gateways(signal.SIGCONT)

    def kill_gateways(self):
        self.gateways(signal.SIGKILL)
        for gateway in self.front.behind:
            gateway.stop()

    def start_gateways(self):
        for index, old in enumerate(self.front.behind):
            new = Gateway(port=old.port, **self.settings)
            self.front.behind[index] = new
            self.front.stopping[self.front.stopping.index(old)] = new

    def restart_gateways(self):
        """As an update does it."""
        for gateway in self.front.behind:
            gateway.stop()
        self.start_gateways()

    # ---- And to the others

    def restart_redis(self):
        port = self.store.port
        self.store.stop()
        self.store = RedisServer(*self.options, port=port)

    def reload_proxy(self):
        self.front.proxy.process.send_signal(signal.SIGHUP)

    def restart_proxy(self):
        old = self.front.proxy
        old.stop()
        self.front.proxy = self.front.run()
        self.front.stopping[self.front.stopping.index(old)] = self.front.proxy
        self.front.proxy.wait_until(lambda: accepts(self.front.port), "the proxy")

    def block(self, blocked):
        """From now on no new WebSocket passes nginx; or again."""
        self.front.blocked = blocked
        self.front.write()
        self.reload_proxy()
        until(lambda: self.front.handshake(f"/ws/{unique()}")[0], 403 if blocked else 101, "nginx", DEADLINE)

    def token(self, name, seconds):
        """A token for this user."""
        encode = lambda data: base64.urlsafe_b64encode(data).rstrip(b"=")  # noqa: E731
        claims = {"sub": name, "exp": int(time.time()) + seconds, "jti": unique()}
        message = b".".join(encode(json.dumps(part).encode()) for part in ({"alg": "HS256"}, claims))
        return (message + b"." + encode(hmac.digest(TOKEN_KEY, message, hashlib.sha256))).decode()


def main():
    kind, first = sys.argv[1:]
    ports = range(int(first), int(first) + EACH)
    harness.PORTS = itertools.cycle(random.sample(ports, len(ports)))
    # The end of the input is what ends it, also after Ctrl-C in the terminal.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    world = World(globals()[kind])
    try:
        print(json.dumps({"answer": world.where()}), flush=True)
        for line in sys.stdin:
            name, *arguments = json.loads(line)
            try:
                reply = {"answer": getattr(world, name)(*arguments)}
            except Exception:
                reply = {"error": traceback.format_exc()}
            print(json.dumps(reply), flush=True)
    finally:
        world.stop()


if __name__ == "__main__":
    main()
