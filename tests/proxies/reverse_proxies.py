"""Starts proxies with the configurations of docs/deploy; only addresses, paths and certificates are replaced."""

import asyncio
import contextlib
import http.server
import json
import os
import pathlib
import queue
import re
import shutil
import socket
import socketserver
import ssl
import subprocess
import tempfile
import threading
import time

from harness import DEADLINE, Client, Gateway, Process, accepts, free_port, handshake

DEPLOY = pathlib.Path(__file__).parents[2] / "docs" / "deploy"
HOST = "www.example.com"
COOKIE = "Cookie: sessionid=wnqd0gbw5obpnj50zwh6yaq2yz4o8g9x"
IDLE = {"ping__interval_seconds": "1", "ping__timeout_seconds": "5"}
ROOT = os.getuid() == 0


def filled(name, replacements):
    """Returns a shipped file with these replacements; fails if one of the old texts is missing."""
    text = (DEPLOY / name).read_text()
    missing = [old for old in replacements if old not in text]
    assert not missing, f"{name} does not have {missing}"
    longest_first = sorted(replacements, key=len, reverse=True)
    return re.sub("|".join(map(re.escape, longest_first)), lambda found: str(replacements[found[0]]), text)


class Authority:
    """A certificate authority of one test run, and the site's certificate."""

    def __init__(self, home):
        self.ca, self.chain, self.key = home / "ca.pem", home / "chain.pem", home / "key.pem"
        self.both = home / "both.pem"
        ca_key, request, names = home / "ca.key", home / "request.pem", home / "names"
        names.write_text(f"subjectAltName=DNS:{HOST}\n")
        new_key = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"]
        authority = ["openssl", "req", "-x509", "-days", "2", "-subj", "/CN=throw-away", "-out", self.ca]
        for command in (
            [*authority, *new_key, "-keyout", ca_key],
            ["openssl", "req", "-subj", f"/CN={HOST}", *new_key, "-keyout", self.key, "-out", request],
            ["openssl", "x509", "-req", "-in", request, "-days", "2", "-extfile", names, "-out", self.chain]
            + ["-CA", self.ca, "-CAkey", ca_key, "-CAcreateserial"],
        ):
            subprocess.run(command, check=True, capture_output=True, timeout=DEADLINE)
        self.both.write_text(self.chain.read_text() + self.key.read_text())

    def context(self, *protocols):
        context = ssl.create_default_context(cafile=self.ca)
        if protocols:
            context.set_alpn_protocols(protocols)
        return context


class Tunnels:
    """TLS for the WebSocket clients, which read and write in two threads.

    Python's own TLS sockets lose written data under concurrent use before 3.13.
    """

    def __init__(self):
        self.loop = asyncio.new_event_loop()
        self.tasks = set()
        threading.Thread(target=self.loop.run_forever, daemon=True).start()

    def dial(self, port, context):
        """Returns a plain socket whose data is forwarded to the port over TLS."""
        near, far = socket.socketpair()
        asyncio.run_coroutine_threadsafe(self._open(far, port, context), self.loop).result(DEADLINE)
        return near

    async def _open(self, far, port, context):
        out = await asyncio.open_connection("127.0.0.1", port, ssl=context, server_hostname=HOST)
        back = await asyncio.open_unix_connection(sock=far)
        for reader, writer in ((out[0], back[1]), (back[0], out[1])):
            task = self.loop.create_task(self._pump(reader, writer))
            # The loop holds only weak references to its tasks.
            self.tasks.add(task)
            task.add_done_callback(self.tasks.discard)

    async def _pump(self, reader, writer):
        with contextlib.suppress(OSError, ssl.SSLError):
            while piece := await reader.read(1 << 16):
                writer.write(piece)
                await writer.drain()
        writer.close()


TUNNELS = Tunnels()


class StubSite:
    """Stands in for Django: echoes path and headers as JSON, and lets visitors with a cookie connect."""

    def __init__(self, path=None):
        site = self
        self.requests = []
        """Pairs of path and headers."""

        class Answers(http.server.BaseHTTPRequestHandler):
            def do_GET(self):
                headers = {name.lower(): ", ".join(self.headers.get_all(name)) for name in self.headers}
                site.requests.append((self.path, headers))
                welcome = "welcome=yes" in self.headers.get("Cookie", "")
                status = 403 if self.path == "/may-connect/" and not welcome else 200
                # The identity callback reports every visitor as anonymous.
                callback = self.path.startswith("/visitor/")
                body = json.dumps(None if callback else {"path": self.path, "headers": headers})
                self.send_response(status)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body.encode())

            def address_string(self):
                return "a proxy"

            def log_message(self, *_):
                pass

        if path is None:
            self.port = free_port()
            self.server = http.server.ThreadingHTTPServer(("127.0.0.1", self.port), Answers)
        else:
            self.server = socketserver.ThreadingUnixStreamServer(str(path), Answers)
            path.chmod(0o666)
        self.server.daemon_threads = True
        threading.Thread(target=self.server.serve_forever, args=[0.05], daemon=True).start()

    def stop(self):
        self.server.shutdown()
        self.server.server_close()


class Stream:
    """An event stream, read by curl."""

    def __init__(self, command):
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        self.lines = queue.Queue()
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self):
        for line in self.process.stdout:
            self.lines.put(line.rstrip("\r\n"))
        self.lines.put(None)

    def expect(self, wanted):
        """Reads up to the first line that matches the pattern, and returns it."""
        end, seen = time.monotonic() + DEADLINE, []
        while True:
            try:
                line = self.lines.get(timeout=max(end - time.monotonic(), 0.001))
            except queue.Empty:
                raise AssertionError(f"no {wanted!r} within {DEADLINE} s, only {seen}") from None
            assert line is not None, f"the stream ended after {seen} without {wanted!r}"
            if re.fullmatch(wanted, line):
                return line
            seen.append(line)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.kill()
        self.process.wait(DEADLINE)


class ReverseProxy:
    """A proxy that forwards to one or two gateways and a site."""

    gateways = 1
    unix = False
    streams = 12
    """Streams that it serves at once on one connection, at least."""
    cookies = ()
    """Cookie headers that the proxy requires of a visitor."""

    def __init__(self, store, authority, **settings):
        self.authority = authority
        self.home = pathlib.Path(tempfile.mkdtemp(prefix="ws4redis-proxy-"))
        # The proxies drop root privileges, and still have to read this directory.
        self.home.chmod(0o755)
        self.static = self.home / "static"
        self.static.mkdir()
        (self.static / "page.css").write_text("body {}")
        self.port, self.plain = free_port(), free_port()
        self.to_stop = []
        try:
            self.start(store, settings)
        except BaseException:
            self.stop()
            raise

    def start(self, store, settings):
        settings = {"redis__url": store.url} | settings
        if self.unix:
            self.gateway_path, self.site_path = self.home / "ws.sock", self.home / "site.sock"
            settings["server__unix_mode"] = "0666"
        listen = f"unix:{self.gateway_path}" if self.unix else None
        self.site = self.open_site(store)
        self.to_stop.append(self.site)
        self.backends = []
        for _ in range(self.gateways):
            self.backends.append(Gateway(listen=listen, **settings))
            self.to_stop.append(self.backends[-1])
        self.server = self.run()
        self.to_stop.append(self.server)
        self.server.wait_until(lambda: accepts(self.port) and accepts(self.plain), type(self).__name__)

    def open_site(self, _store):
        return StubSite(self.site_path if self.unix else None)

    def stop(self):
        for one in reversed(self.to_stop):
            one.stop()
        shutil.rmtree(self.home, ignore_errors=True)

    def connect(self, facility, flags="subscribe-broadcast", headers=(), **options):
        headers = dict(line.split(": ", 1) for line in (*self.cookies, *headers))
        # Offers HTTP/1.1 only, as browsers do for WebSockets.
        near = TUNNELS.dial(self.port, self.authority.context("http/1.1"))
        url = f"ws://{HOST}:{self.port}/ws/{facility}?{flags}"
        return Client(url, sock=near, additional_headers=headers, **options)

    def handshake(self, target, *headers):
        context = self.authority.context("http/1.1")
        plain = socket.create_connection(("127.0.0.1", self.port), DEADLINE)
        with context.wrap_socket(plain, server_hostname=HOST) as connection:
            return handshake(connection, target, *self.cookies, *headers, host=HOST)

    def curl(self, target, *options, headers=()):
        lines = [word for line in (*self.cookies, *headers) for word in ("-H", line)]
        connection = ["--cacert", self.authority.ca, "--resolve", f"{HOST}:{self.port}:127.0.0.1", "--noproxy", "*"]
        url = f"https://{HOST}:{self.port}{target}"
        return ["curl", "-sN", "--max-time", "30", *connection, *lines, *options, url]

    def fetch(self, target, *options, headers=()):
        """Returns status and body."""
        command = self.curl(target, "-w", "\n%{http_code}", *options, headers=headers)
        done = subprocess.run(command, capture_output=True, text=True, timeout=DEADLINE * 4)
        assert done.returncode == 0, done
        body, _, status = done.stdout.rpartition("\n")
        return int(status), body

    def stream(self, facility, http="--http2", flags="subscribe-broadcast"):
        return Stream(self.curl(f"/ws/{facility}?{flags}", http, "-i", headers=["Accept: text/event-stream"]))

    def post(self, facility, message, flags="publish-broadcast"):
        return self.fetch(f"/ws/{facility}?{flags}", "--data-binary", message, headers=["X-WS4Redis: 1"])


class Nginx(ReverseProxy):
    conf = "nginx/tcp.conf"
    main = {}
    """Replacements in the main file, for tests that need other values."""

    def ports(self):
        return {
            "listen 80;": f"listen 127.0.0.1:{self.plain};",
            "listen [::]:80;": "",
            "listen 443 ssl": f"listen 127.0.0.1:{self.port} ssl",
            "listen [::]:443 ssl http2;": "",
            "/etc/letsencrypt/live/www.example.com/fullchain.pem": self.authority.chain,
            "/etc/letsencrypt/live/www.example.com/privkey.pem": self.authority.key,
            "/srv/example/static/": f"{self.static}/",
            "/var/log/nginx/ws.log": self.home / "ws.log",
        }

    def upstreams(self):
        return {"127.0.0.1:8000": self.upstream(0), "127.0.0.1:8001": f"127.0.0.1:{self.site.port}"}

    def upstream(self, number):
        return f"127.0.0.1:{self.backends[number].port}"

    def write(self, change=lambda text: text):
        (self.home / "site.conf").write_text(change(filled(self.conf, self.ports() | self.upstreams())))

    def run(self):
        self.write()
        temporary = "".join(
            f"    {kind}_temp_path {self.home}/{kind};\n"
            for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
        )
        main = {
            "pid /run/nginx.pid;": f"pid {self.home}/nginx.pid; daemon off;",
            "/var/log/nginx/error.log": self.home / "error.log",
            "/var/log/nginx/access.log": self.home / "access.log",
            "    include /etc/nginx/conf.d/*.conf;": f"{temporary}    include {self.home}/site.conf;",
        }
        if not ROOT:
            main["user www-data;"] = ""
        (self.home / "nginx.conf").write_text(filled("nginx/nginx.conf", main | self.main))
        program = shutil.which("nginx") or "/usr/sbin/nginx"
        return Process([program, "-p", self.home, "-c", self.home / "nginx.conf"])

    def logged(self):
        return (self.home / "ws.log").read_text()


class NginxUnix(Nginx):
    conf = "nginx/unix.conf"
    unix = True

    def upstreams(self):
        return {"/run/ws4redis/ws4redis.sock": self.gateway_path, "/run/gunicorn/gunicorn.sock": self.site_path}


class NginxTwo(Nginx):
    conf = "nginx/two.conf"
    gateways = 2

    def upstreams(self):
        return super().upstreams() | {"127.0.0.1:8002": self.upstream(1)}


class NginxAuthRequest(Nginx):
    conf = "nginx/auth_request.conf"
    cookies = ("Cookie: welcome=yes",)


class Haproxy(ReverseProxy):
    gateways = 2

    def run(self):
        conf = {
            # The machine's limit of open files may be lower than the shipped value needs.
            "maxconn 50000": "maxconn 500",
            "bind :80": f"bind 127.0.0.1:{self.plain}",
            "bind :443": f"bind 127.0.0.1:{self.port}",
            "/etc/haproxy/certs/www.example.com.pem": self.authority.both,
            "127.0.0.1:8000": f"127.0.0.1:{self.backends[0].port}",
            "127.0.0.1:8002": f"127.0.0.1:{self.backends[1].port}",
            "127.0.0.1:8001": f"127.0.0.1:{self.site.port}",
        }
        if not ROOT:
            conf |= {"chroot /var/lib/haproxy": "", "user haproxy": "", "group haproxy": ""}
        (self.home / "haproxy.cfg").write_text(filled("haproxy.cfg", conf))
        return Process([shutil.which("haproxy") or "/usr/sbin/haproxy", "-db", "-f", self.home / "haproxy.cfg"])

    def logged(self):
        return self.server.output()


class Caddy(ReverseProxy):
    gateways = 2

    def run(self):
        own = f"admin off\n\tdefault_bind 127.0.0.1\n\thttp_port {self.plain}\n\thttps_port {self.port}"
        conf = {
            f"{HOST} {{": f"{{\n\t{own}\n}}\n\n{HOST} {{",
            "/etc/caddy/certs/fullchain.pem": self.authority.chain,
            "/etc/caddy/certs/privkey.pem": self.authority.key,
            "/var/log/caddy/access.log": self.home / "access.log",
            "/srv/example/static": self.static,
            "127.0.0.1:8000": f"127.0.0.1:{self.backends[0].port}",
            "127.0.0.1:8002": f"127.0.0.1:{self.backends[1].port}",
            "127.0.0.1:8001": f"127.0.0.1:{self.site.port}",
        }
        (self.home / "Caddyfile").write_text(filled("Caddyfile", conf))
        return Process(["caddy", "run", "--adapter", "caddyfile", "--config", self.home / "Caddyfile"])

    def logged(self):
        return (self.home / "access.log").read_text()


APACHE = """
ServerRoot /usr/lib/apache2
PidFile {home}/apache.pid
DefaultRuntimeDir {home}
ServerName localhost
ErrorLog {home}/main-error.log
{user}
{modules}
Listen 127.0.0.1:{plain}
Listen 127.0.0.1:{port}
Include {home}/site.conf
"""
"""The directives of Debian's own files that the site needs."""

MODULES = "mpm_event authz_core authz_host alias ssl http2 socache_shmcb proxy proxy_http proxy_wstunnel headers"


class Apache(ReverseProxy):
    # mod_http2 starts with six, and allows more only after some of them have ended.
    streams = 6

    def write(self):
        (self.home / "site.conf").write_text(
            filled(
                "apache.conf",
                {
                    "*:80>": f"127.0.0.1:{self.plain}>",
                    "*:443>": f"127.0.0.1:{self.port}>",
                    "/etc/letsencrypt/live/www.example.com/fullchain.pem": self.authority.chain,
                    "/etc/letsencrypt/live/www.example.com/privkey.pem": self.authority.key,
                    "/var/log/apache2/": f"{self.home}/",
                    "/srv/example/static/": f"{self.static}/",
                    "127.0.0.1:8000": f"127.0.0.1:{self.backends[0].port}",
                    "127.0.0.1:8001": f"127.0.0.1:{self.site.port}",
                },
            )
        )

    def run(self):
        self.write()
        modules = "\n".join(f"LoadModule {name}_module modules/mod_{name}.so" for name in MODULES.split())
        user = "User www-data\nGroup www-data" if ROOT else ""
        values = {"home": self.home, "plain": self.plain, "port": self.port, "modules": modules, "user": user}
        (self.home / "apache.conf").write_text(APACHE.format(**values))
        program = shutil.which("apache2") or "/usr/sbin/apache2"
        return Process([program, "-D", "FOREGROUND", "-f", self.home / "apache.conf"])

    def logged(self):
        return (self.home / "example.log").read_text()


def connection_count(gateway):
    """Returns the number of established connections of a gateway."""
    lines = pathlib.Path("/proc/net/tcp").read_text().splitlines()[1:]
    connections = [line.split()[1:4:2] for line in lines]
    return connections.count([f"0100007F:{gateway.port:04X}", "01"])


def connections_to(port, pid):
    """Returns the number of connections of a process to a local port."""
    lines = [line.split() for line in pathlib.Path(f"/proc/{pid}/net/tcp").read_text().splitlines()[1:]]
    there = {f"socket:[{line[9]}]" for line in lines if line[2:4] == [f"0100007F:{port:04X}", "01"]}
    return sum(os.readlink(file) in there for file in pathlib.Path(f"/proc/{pid}/fd").iterdir())


PROXIES = [Nginx, NginxUnix, NginxTwo, NginxAuthRequest, Haproxy, Caddy, Apache]
