"""A Redis, the gateway, the Django site in tests/django, a console of the site, and browsers of its visitors."""

import http.cookiejar
import json
import os
import pathlib
import select
import subprocess
import sys
import urllib.parse
import urllib.request
from dataclasses import dataclass, field

import redis

from harness import DEADLINE, Client, Gateway, Process, RedisServer, clean_environment, free_port, unique

TESTS = pathlib.Path(__file__).resolve().parents[1]
SITE = TESTS / "django"
MANAGE = SITE / "manage.py"
PACKAGE = TESTS.parent / "python"

ALL = "subscribe-broadcast&subscribe-group&subscribe-user&subscribe-session"
USERNAMES = ("john", "jim", "mary", "admin")
GROUPS = ("chatusers", "red team", "blue team", "newcomers")
PASSWORD = "secret"
SECRET_KEY = "of the end-to-end tests, and of nothing else in the world"


@dataclass(frozen=True)
class SiteKind:
    """The setup of a site: its SITE_ variables and the matching gateway settings, in which `{site}` is its URL.

    `events` turns on keyspace notifications.
    """

    name: str
    site: dict = field(default_factory=dict)
    gateway: dict = field(default_factory=dict)
    events: bool = False


def site_environment(**variables):
    """Returns the environment of the site's commands."""
    settings = {f"SITE_{name.upper()}": value for name, value in variables.items()}
    paths = os.pathsep.join(map(str, (PACKAGE, SITE)))
    return clean_environment(PYTHONPATH=paths, DJANGO_SETTINGS_MODULE="project.settings", **settings)


class Site(Process):
    """The site in Django's own server."""

    def __init__(self, port=None, **variables):
        self.port = port or free_port()
        self.origin = f"http://127.0.0.1:{self.port}"
        self.secure = "ssl_redirect" in variables
        # --insecure serves static files too, for proxies that forward them to the site.
        command = [sys.executable, MANAGE, "runserver", "--noreload", "--insecure", f"127.0.0.1:{self.port}"]
        super().__init__(command, env=site_environment(**variables), cwd=SITE)

    def ready(self):
        self.wait_until(lambda: Browser(self).get("/")["user"] == "", "Django")


def manage(*words, **variables):
    """Runs a management command of the site; returns its exit code and output."""
    done = subprocess.run(
        [sys.executable, MANAGE, *words],
        env=site_environment(**variables),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=60,
        check=False,
    )
    return done.returncode, done.stdout


class Console:
    """A second process with the site's settings, as a task queue is."""

    def __init__(self, **variables):
        self.process = subprocess.Popen(
            [sys.executable, TESTS / "e2e" / "console.py"],
            env=site_environment(**variables),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )

    def run(self, code, **values):
        """Runs the code with these variables; returns its variable `answer`."""
        code = "".join(f"{name} = {value!r}\n" for name, value in values.items()) + code
        self.process.stdin.write(json.dumps(code).encode() + b"\n")
        self.process.stdin.flush()

        assert select.select([self.process.stdout], [], [], 2 * DEADLINE)[0], f"no answer to {code}"
        reply = json.loads(self.process.stdout.readline())
        assert "error" not in reply, f"{code}\n{reply['error']}"
        return reply["answer"]

    def stop(self):
        self.process.stdin.close()
        try:
            self.process.wait(DEADLINE)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait(DEADLINE)
        self.process.stdout.close()


class Deployment:
    """Redis, gateway, site and console, started in this order and stopped in reverse."""

    def __init__(self, kind, database):
        self.kind = kind
        self.started = []
        try:
            self.start_all(database)
        except BaseException:
            self.stop()
            raise

    def start_all(self, database):
        kind = self.kind
        events = ["--notify-keyspace-events", "Kgxe"] if kind.events else []
        self.redis = self.start(RedisServer(*events))
        self.variables = {
            "redis": f"{self.redis.url}/0",
            "database": database,
            "heartbeat": "",
            "secret_key": SECRET_KEY,
        } | kind.site
        self.open_site()
        # session.recheck_seconds keeps its default of 30, longer than any test waits: a pass cannot come from a recheck.
        self.gateway = self.start(
            Gateway(
                redis__url=f"{self.redis.url}/0",
                prefix=kind.site.get("prefix", ""),
                origin__allowed=self.site.origin,
                **{name: value.replace("{site}", self.site.origin) for name, value in kind.gateway.items()},
            )
        )
        self.site.ready()

    def open_site(self, port=None):
        """Starts the site and its console."""
        self.site = self.start(Site(port, **self.variables))
        self.console = self.start(Console(**self.variables))

    def reopen_site(self, **variables):
        """Restarts the site at the same address; `variables` replace its former ones."""
        for process in (self.site, self.console):
            self.started.remove(process)
            process.stop()
        self.variables |= variables
        self.open_site(self.site.port)
        self.site.ready()

    def start(self, process):
        self.started.append(process)
        return process

    def stop(self):
        for process in reversed(self.started):
            process.stop()

    def reset(self):
        """Restores the initial users, and deletes all keys, so all sessions."""
        self.console.run("make_people()")
        with redis.Redis(port=self.redis.port) as client:
            client.flushall()

    def browser(self, username=None, password=PASSWORD):
        """Returns a browser; with `username`, that user is logged in."""
        browser = Browser(self.site)
        if username is not None:
            browser.log_in(username, password)
        return browser

    def connect(self, browser, facility, flags=ALL, **headers):
        """Connects a WebSocket as a page of the site does."""
        return Client(
            self.gateway.url(facility, flags),
            origin=self.site.origin,
            additional_headers=[("Cookie", browser.cookies()), *headers.items()],
        )

    def channels_of(self, client, facility, **sessions):
        """Publishes to each audience; returns those that the client received. `sessions` maps names to session keys."""
        self.drain(client, facility)
        audiences = {"everybody": {"broadcast": True}}
        audiences |= {f"user {name}": {"users": [name]} for name in USERNAMES}
        audiences |= {f"group {name}": {"groups": [name]} for name in GROUPS}
        audiences |= {f"session {name}": {"sessions": [key]} for name, key in sessions.items()}
        self.console.run(
            "for audience, arguments in audiences.items():\n"
            "    RedisPublisher(facility=facility, **arguments).publish_message(audience, expire=0)",
            audiences=audiences,
            facility=facility,
        )
        received = set()
        # Messages of different channels have no order among each other: the end marker is published after the broadcast arrived.
        while (message := client.receive()) != "everybody":
            received.add(message)
        end = unique("end")
        self.publish(end, facility, broadcast=True)
        while (message := client.receive()) != end:
            received.add(message)
        return received

    def drain(self, client, facility):
        """Reads all messages in flight to a client that subscribes to the broadcast."""
        end = unique("end")
        self.publish(end, facility, broadcast=True)
        while client.receive() != end:
            pass

    def publish(self, message, facility, expire=0, **audiences):
        """Publishes as a task of the site does; returns the number of receivers."""
        return self.console.run(
            "answer = RedisPublisher(facility=facility, **audiences).publish_message(message, expire=expire)",
            message=message,
            facility=facility,
            expire=expire,
            audiences=audiences,
        )

    def channels_of_new_socket(self, browser):
        """Opens a WebSocket of this browser; returns the audiences that it belongs to."""
        facility = unique()
        with self.connect(browser, facility) as client:
            return self.channels_of(client, facility, own=browser.session_key or "x" * 32)


class Browser:
    """A visitor of the site, with cookies."""

    def __init__(self, site):
        self.site = site
        self.jar = http.cookiejar.CookieJar()
        self.opener = urllib.request.build_opener(
            urllib.request.ProxyHandler({}), urllib.request.HTTPCookieProcessor(self.jar)
        )
        if site.secure:
            # The headers of a proxy that terminates TLS; Django then requires a Referer as well.
            referer = site.origin.replace("http:", "https:") + "/"
            self.opener.addheaders = [("X-Forwarded-Proto", "https"), ("Referer", referer)]

    def open(self, path, form=None):
        """Follows redirects; returns the body of the response."""
        data = None if form is None else urllib.parse.urlencode(form).encode()
        with self.opener.open(self.site.origin + path, data=data, timeout=DEADLINE) as answer:
            return answer.read().decode()

    def get(self, path):
        """Returns the JSON of the response."""
        return json.loads(self.open(path))

    def post(self, path, page=None, **form):
        """Posts a form with the CSRF token of `page`, or of `path` itself."""
        self.open(page or path)
        return self.open(path, {"csrfmiddlewaretoken": self.cookie("csrftoken")} | form)

    def log_in(self, username, password=PASSWORD):
        self.post("/accounts/login/", username=username, password=password)
        assert self.get("/")["user"] == username

    def log_out(self):
        self.post("/accounts/logout/", page="/accounts/login/")
        assert self.get("/")["user"] == ""

    def cookie(self, name):
        return next((cookie.value for cookie in self.jar if cookie.name == name), None)

    @property
    def session_key(self):
        return self.cookie("sessionid")

    def cookies(self):
        """Returns the value of the Cookie header."""
        return "; ".join(f"{cookie.name}={cookie.value}" for cookie in self.jar) or "theme=dark"

    def copy(self):
        """Returns a browser with a copy of the cookies; later responses do not change them."""
        other = Browser(self.site)
        for cookie in self.jar:
            other.jar.set_cookie(cookie)
        return other


def make_database(path):
    """Creates the site's database, without users."""
    code, output = manage("migrate", "-v0", database=path)
    assert code == 0, output
