"""The servers behind the browsers: Redis, gateways, the Django site, and a proxy with its file of docs/deploy.

    python deployment.py Nginx|Haproxy|Caddy FIRST_PORT

Each input line is JSON: `["method of Deployment", argument…]`. Each output line is its reply: `{"answer": …}` or
`{"error": …}`. At the end of the input all servers stop.
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

import redis  # noqa: E402
import reverse_proxies  # noqa: E402
from reverse_proxies import HOST  # noqa: E402
from deployments import SECRET_KEY, Site, make_database, manage  # noqa: E402

import harness  # noqa: E402
from harness import DEADLINE, UPGRADE, Gateway, RedisServer, accepts, unique, until  # noqa: E402

HEARTBEAT = "--heartbeat--"
FOREIGN_HOST = "other.example.com"
"""Another origin, whose pages send the site's cookies, since both hosts share a domain."""

TOKEN_KEY = b"a secret of the browsers' tests, which has to be as long as this"
EACH = 100
"""Number of ports of one deployment."""

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
        # Requests need the proxy's host name, which only the proxy sends.
        self.wait_until(lambda: accepts(self.port), "Django")


class RealSite:
    """A proxy in front of Django, with Django's static files in the directory that the proxy serves."""

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


class Nginx(RealSite, reverse_proxies.Nginx):
    blocked = False

    def write(self):
        """Writes the shipped file plus a foreign site; while `blocked`, it refuses upgrades."""
        veto = ("location /ws/ {", "location /ws/ { if ($http_upgrade) { return 403; }") if self.blocked else ("", "")
        super().write(lambda text: text.replace(*veto) + self.foreign())

    def foreign(self):
        return FOREIGN.format(
            port=self.port,
            name=FOREIGN_HOST,
            chain=self.authority.chain,
            key=self.authority.key,
            static=self.static,
        )


class Haproxy(RealSite, reverse_proxies.Haproxy):
    pass


class Caddy(RealSite, reverse_proxies.Caddy):
    pass


class Deployment:
    def __init__(self, kind):
        self.stack = contextlib.ExitStack()
        try:
            self.home = pathlib.Path(self.stack.enter_context(tempfile.TemporaryDirectory(prefix="ws4redis-site-")))
            # Persistence keeps sessions across a restart, as a site with sessions in Redis needs it.
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
                "socketio__enabled": "true",
                "socketio__user_room": "ws4redis:user:{user}",
            }
            self.proxy = kind(self.store, reverse_proxies.Authority(self.home), **self.settings)
            self.stack.callback(self.proxy.stop)
        except BaseException:
            self.stop()
            raise

    def stop(self):
        self.signal_gateways(signal.SIGCONT)
        self.stack.close()

    def addresses(self):
        """Returns the values that the browsers need."""
        return {"host": HOST, "foreignHost": FOREIGN_HOST, "port": self.proxy.port, "heartbeat": HEARTBEAT}

    # ---- Socket.IO

    def publish_socketio(self, method, **members):
        """Publishes what python-socketio's RedisManager publishes; returns the number of gateways."""
        message = {"method": method, "namespace": "/", "room": None, "skip_sid": None, "callback": None} | members
        return redis.Redis(port=self.store.port).publish("socketio", json.dumps(message))

    def emit(self, room, *arguments):
        """Emits the event `news` to a room; None is everybody."""
        return self.publish_socketio("emit", event="news", data=arguments, binary=False, room=room)

    def emit_bytes(self, room, text):
        """Emits the bytes of a text."""
        encoded = base64.b64encode(text.encode()).decode()
        data = [[{"_placeholder": True, "num": 0}], encoded]
        return self.publish_socketio("emit", event="news", data=data, binary=True, room=room)

    def enter_room(self, sid, room):
        return self.publish_socketio("enter_room", sid=sid, room=room)

    # ---- Outages of the gateways

    def signal_gateways(self, number):
        for gateway in getattr(getattr(self, "proxy", None), "backends", ()):
            with contextlib.suppress(ProcessLookupError):
                os.kill(gateway.process.pid, number)

    def freeze_gateways(self):
        self.signal_gateways(signal.SIGSTOP)

    def thaw_gateways(self):
        self.signal_gateways(signal.SIGCONT)

    def kill_gateways(self):
        self.signal_gateways(signal.SIGKILL)
        for gateway in self.proxy.backends:
            gateway.stop()

    def start_gateways(self):
        for index, old in enumerate(self.proxy.backends):
            new = Gateway(port=old.port, **self.settings)
            self.proxy.backends[index] = new
            self.proxy.to_stop[self.proxy.to_stop.index(old)] = new

    def restart_gateways(self):
        """Stops and starts them, as an update does."""
        for gateway in self.proxy.backends:
            gateway.stop()
        self.start_gateways()

    # ---- Outages of the other servers

    def restart_redis(self):
        port = self.store.port
        self.store.stop()
        self.store = RedisServer(*self.options, port=port)

    def reload_proxy(self):
        self.proxy.server.process.send_signal(signal.SIGHUP)

    def restart_proxy(self):
        old = self.proxy.server
        old.stop()
        self.proxy.server = self.proxy.run()
        self.proxy.to_stop[self.proxy.to_stop.index(old)] = self.proxy.server
        self.proxy.server.wait_until(lambda: accepts(self.proxy.port), "the proxy")

    def block(self, blocked):
        """Makes nginx refuse new WebSockets, or lets them pass again."""
        self.proxy.blocked = blocked
        self.proxy.write()
        self.reload_proxy()
        until(lambda: self.proxy.handshake(f"/ws/{unique()}")[0], 403 if blocked else 101, "nginx", DEADLINE)

    def token(self, name, seconds):
        """Returns a token for this user, valid for `seconds`."""
        encode = lambda data: base64.urlsafe_b64encode(data).rstrip(b"=")  # noqa: E731
        claims = {"sub": name, "exp": int(time.time()) + seconds, "jti": unique()}
        message = b".".join(encode(json.dumps(part).encode()) for part in ({"alg": "HS256"}, claims))
        return (message + b"." + encode(hmac.digest(TOKEN_KEY, message, hashlib.sha256))).decode()


def main():
    kind, first = sys.argv[1:]
    ports = range(int(first), int(first) + EACH)
    harness.PORTS = itertools.cycle(random.sample(ports, len(ports)))
    # After Ctrl-C the driver still calls methods; only the end of the input stops the servers.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    deployment = Deployment(globals()[kind])
    try:
        print(json.dumps({"answer": deployment.addresses()}), flush=True)
        for line in sys.stdin:
            name, *arguments = json.loads(line)
            try:
                reply = {"answer": getattr(deployment, name)(*arguments)}
            except Exception:
                reply = {"error": traceback.format_exc()}
            print(json.dumps(reply), flush=True)
    finally:
        deployment.stop()


if __name__ == "__main__":
    main()
