"""`manage.py runserver` in a project of `django-admin startproject`: WebSockets on Django's port, with no further process."""

import contextlib
import os
import pathlib
import re
import shutil
import signal
import socket
import subprocess
import sys
import time

import pytest

from harness import BINARY, DEADLINE, Client, Process, accepts, clean_environment, free_port, unique, until

PACKAGE = pathlib.Path(__file__).resolve().parents[2] / "python"
LONG = os.environ.get("WS4REDIS_TESTS_LONG") == "1"
# Pythons with other versions of Django; --long sets them.
PYTHONS = [sys.executable, *filter(None, os.environ.get("WS4REDIS_SITE_PYTHONS", "").split(":"))] if LONG else [sys.executable]
START_SECONDS = 60

SETTINGS = """
INSTALLED_APPS = ["ws4redis", *INSTALLED_APPS]
MIDDLEWARE += ["ws4redis.middleware.SessionMiddleware"]
TEMPLATES[0]["OPTIONS"]["context_processors"].append("ws4redis.context_processors.default")
TEMPLATES[0]["DIRS"].append(BASE_DIR)
WEBSOCKET_URL = "/ws/"
WS4REDIS_CONNECTION = {{"host": "localhost", "port": {port}}}
WS4REDIS_GATEWAY = {{"anonymous_publish": False}}
WS4REDIS_BINARY = {binary!r}
ALLOWED_HOSTS = {hosts!r}
"""
URLS = """
from django.http import HttpResponse
from django.views.generic import TemplateView

def publish(request):
    from ws4redis.publisher import RedisPublisher
    arguments = {"users": [request.GET["user"]]} if "user" in request.GET else {"broadcast": True}
    RedisPublisher(facility="foobar", **arguments).publish_message(request.GET["text"], expire=0)
    return HttpResponse("done")

def log_in(request):
    from django.contrib.auth import get_user_model, login
    user, _ = get_user_model().objects.get_or_create(username=request.GET["user"])
    login(request, user)
    return HttpResponse("done")

urlpatterns += [path("publish/", publish), path("log-in/", log_in), path("page/", TemplateView.as_view(template_name="page.html"))]
"""


class Project:
    """A fresh project, and its server."""

    def __init__(self, home, python, hosts=()):
        self.home, self.python = home, python
        self.store_port = free_port()
        self.run("-m", "django", "startproject", "mysite", home)
        self.append("settings", SETTINGS.format(port=self.store_port, binary=BINARY, hosts=list(hosts)))
        self.append("urls", URLS)
        (home / "page.html").write_text("{{ WEBSOCKET_URI }}")
        self.run(home / "manage.py", "migrate", "-v0")

    def environment(self, **more):
        # The snapshot of sessions belongs to the project.
        return clean_environment(PYTHONPATH=PACKAGE, XDG_CACHE_HOME=self.home / "cache", PYTHONDONTWRITEBYTECODE=1) | more

    def run(self, *words):
        done = subprocess.run(
            [self.python, *words], env=self.environment(), capture_output=True, text=True, timeout=START_SECONDS, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def append(self, module, text):
        with (self.home / "mysite" / f"{module}.py").open("a") as file:
            file.write(text)

    def change(self, module, text, read, wanted, what):
        """Appends to a module, and polls as `until` does. The reloader does not see a change before its first look at the
        files, so the module's time is changed again every few seconds."""
        self.append(module, text)
        path, since = self.home / "mysite" / f"{module}.py", time.monotonic()

        def read_again():
            nonlocal since
            if time.monotonic() > since + 5:
                since = time.monotonic()
                path.touch()
            return read()

        until(read_again, wanted, what, START_SECONDS)

    @contextlib.contextmanager
    def serve(self, *options, address="127.0.0.1", **more):
        server = Server(self, options, address, more)
        try:
            yield server
        finally:
            server.stop()


class Server(Process):
    """runserver, which leads a process group of its own, as at a terminal."""

    def __init__(self, project, options, address, more):
        self.port = free_port()
        self.host = address
        shown = f"[{address}]" if ":" in address else address
        command = ["setsid", project.python, "-u", project.home / "manage.py", "runserver", f"{shown}:{self.port}", *options]
        super().__init__(command, env=project.environment(**more), cwd=project.home)
        target = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(address, address)
        self.wait_until(lambda: is_open(target, self.port), "runserver", START_SECONDS)

    def get(self, path, host="127.0.0.1", **headers):
        """Returns status and body; Django closes the connection."""
        with socket.create_connection((host.strip("[]"), self.port), DEADLINE) as connection:
            lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
            connection.sendall(f"GET {path} HTTP/1.1\r\nHost: {host}:{self.port}\r\nConnection: close\r\n{lines}\r\n".encode())
            with connection.makefile("rb") as file:
                head, _, body = file.read().partition(b"\r\n\r\n")
        return int(head.split()[1]), head.decode(), body.decode()

    def client(self, flags="subscribe-broadcast", host="127.0.0.1", cookie=None, facility="foobar"):
        """Connects as a page of this host does."""
        headers = {"Cookie": cookie} if cookie else {}
        place = f"{host}:{self.port}"
        return Client(
            f"ws://{place}/ws/{facility}?{flags}", origin=f"http://{place}", additional_headers=headers, open_timeout=START_SECONDS
        )

    def publish(self, text, user=None):
        assert self.get(f"/publish/?text={text}" + (f"&user={user}" if user else ""))[0] == 200

    def log_in(self, user):
        """Returns the cookie of a new session."""
        _, head, _ = self.get(f"/log-in/?user={user}")
        return re.search(r"Set-Cookie: +(sessionid=\w+)", head)[1]

    def processes(self):
        """Returns the ids and command lines of the server and the processes that descend from it."""
        found = {self.process.pid: "runserver"}
        parents = set(found)
        while True:
            children = {pid: line for pid, (parent, line) in all_processes().items() if parent in parents and pid not in found}
            if not children:
                return found
            found |= children
            parents = set(children)

    def stop(self):
        """Ends it as Ctrl-C at a terminal does."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGINT)
        super().stop()


def is_open(host, port):
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
        probe.settimeout(1)
        return probe.connect_ex((host, port)) == 0


def all_processes():
    """Returns parent and command line of each process."""
    found = {}
    for folder in pathlib.Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError, ValueError):
            stat = (folder / "stat").read_text().rpartition(")")[2].split()
            if stat[0] != "Z":
                found[int(folder.name)] = (int(stat[1]), (folder / "cmdline").read_text().replace("\0", " "))
    return found


@pytest.fixture(scope="module", params=PYTHONS, ids=[str(number) for number in range(len(PYTHONS))])
def made(request, tmp_path_factory):
    """A project that the tests copy."""
    home = tmp_path_factory.mktemp("project") / "site"
    home.mkdir()
    return Project(home, request.param, hosts=["*"])


@pytest.fixture
def project(made, tmp_path):
    """A project of one test."""
    copy = Project.__new__(Project)
    copy.home = shutil.copytree(made.home, tmp_path / "site")
    copy.python, copy.store_port = made.python, free_port()
    settings = copy.home / "mysite" / "settings.py"
    settings.write_text(settings.read_text().replace(str(made.store_port), str(copy.store_port)))
    return copy


def expect_none_left(pids):
    """Expects that processes have ended, also those that init has adopted."""
    until(lambda: {pid for pid in pids if pid in all_processes()}, set(), "processes of runserver")


def test_a_new_project_has_websockets_users_and_static_files_on_one_port(project):
    with project.serve() as server:
        cookie = server.log_in("mary")
        with server.client("subscribe-broadcast&subscribe-user", cookie=cookie) as mary, server.client() as anonymous:
            server.publish("one")
            mary.expect("one")
            anonymous.expect("one")
            server.publish("two", user="mary")
            mary.expect("two")
            anonymous.expect_nothing_before(server.publish)
        assert server.get("/static/js/ws4redis.js")[0] == 200
        assert server.get("/nothing/")[0] == 404
        output = server.output()
        assert "WebSockets at /ws/ by the ws4redis gateway" in output
        assert "the gateway has a small one there, which keeps sessions in" in output
        assert " WARN " not in output, output
        # One line for each request of a page.
        assert output.count(" is for the gateway") == 2, output


def test_the_doctor_complains_of_nothing_in_a_new_project(project):
    """The sessions are in the database, and the gateway of runserver asks the site itself."""
    with project.serve("--noreload") as server:
        with server.client():
            pass
        report = project.run(project.home / "manage.py", "ws4redis_doctor", "--site", f"http://127.0.0.1:{server.port}")
        complaints = re.findall(r"^ *(?:warning|error) .*", report, re.M)
        assert complaints == [], report
        assert "the gateway of manage.py runserver asks the site" in report


def test_the_doctor_names_a_facility_that_no_rule_admits(project):
    rules = {"access": [{"facility": ["news"], "users": ["subscribe-*"]}, {"facility": ["ws4redis-*"], "anonymous": ["subscribe-*"]}]}
    project.append("settings", f"\nWS4REDIS_GATEWAY = {rules!r}\n")
    with project.serve("--noreload") as server:
        with server.client("subscribe-broadcast", facility="ws4redis-doctor"):
            pass
        report = project.run(project.home / "manage.py", "ws4redis_doctor")
        complaints = re.findall(r"^ *(?:warning|error)  (.*)", report, re.M)
        assert len(complaints) == 1, report
        assert "nobody subscribe to the facility 'foobar'" in complaints[0]
        assert "mysite/urls.py:" in complaints[0]


def test_a_reload_keeps_the_sockets_and_changed_settings_of_the_gateway_are_used(project):
    with project.serve() as server, server.client() as client:
        server.publish("before")
        client.expect("before")
        starts = server.output().count("WebSockets at ")
        project.change(
            "urls", "\n# changed\n", lambda: server.output().count("WebSockets at "), lambda count: count > starts, "a reload"
        )
        until(lambda: accepts(server.port), True, "Django")
        server.publish("after")
        client.expect("after")
        project.change(
            "settings",
            "\nWS4REDIS_HEARTBEAT = '--heartbeat--'\n",
            server.output,
            lambda output: "the settings have changed" in output,
            "a restart of the gateway",
        )
        client.expect_close(1012)
        with server.client() as other:
            until(other.receive, "--heartbeat--", "the heartbeat")


@pytest.mark.parametrize("how", ["INT", "KILL", "TERM"] if LONG else ["INT", "KILL"])
def test_nothing_is_left_when_runserver_ends(project, how):
    with project.serve() as server, server.client():
        processes = server.processes()
        assert sum("--end-with-stdin" in line for line in processes.values()) == 1, processes
        # Ctrl-C reaches all processes of a terminal, the others only one.
        kill = os.killpg if how == "INT" else os.kill
        kill(server.process.pid, getattr(signal, f"SIG{how}"))
        server.process.wait(DEADLINE)
        expect_none_left(processes)


def test_a_gateway_that_is_killed_is_started_again(project):
    with project.serve() as server:
        with server.client():
            pass
        # A gateway that ends sooner counts as one that cannot run.
        started = time.monotonic()
        until(lambda: time.monotonic() - started, lambda seconds: seconds > 2.2, "the time")
        (gateway,) = (pid for pid, line in server.processes().items() if "--end-with-stdin" in line)
        os.kill(gateway, signal.SIGKILL)
        until(lambda: server.output(), lambda output: "it is started again" in output, "the message")
        with server.client() as client:
            server.publish("again")
            client.expect("again")


def test_requests_for_both_share_a_kept_connection(project):
    with project.serve() as server, socket.create_connection(("127.0.0.1", server.port), DEADLINE) as connection:
        file = connection.makefile("rb")
        connection.sendall(f"GET /page/ HTTP/1.1\r\nHost: localhost:{server.port}\r\n\r\n".encode())
        assert file.readline().split()[1] == b"200"
        length = 0
        while (line := file.readline()) != b"\r\n":
            if line.lower().startswith(b"content-length:"):
                length = int(line.split()[1])
        assert file.read(length).decode() == f"ws://localhost:{server.port}/ws/"
        # In two pieces, as a slow client sends it.
        connection.sendall(b"GET /w")
        connection.sendall(f"s/foobar?subscribe-broadcast HTTP/1.1\r\nHost: localhost:{server.port}\r\nAccept: text/event-stream\r\n\r\n".encode())
        assert file.readline().split()[1] == b"200"
        head = b"".join(iter(file.readline, b"\r\n")).lower()
        assert b"text/event-stream" in head
        # The gateway closes it, so that no later request for Django gets there.
        assert b"connection: close" in head


@pytest.mark.parametrize(
    ("address", "hosts"),
    [("0.0.0.0", ["127.0.0.1", "localhost", "lan"]), ("::1", ["[::1]"])],
)
def test_pages_connect_under_each_name_of_the_machine(project, address, hosts):
    with project.serve("--noreload", address=address) as server:
        for host in hosts:
            host = own_address() if host == "lan" else host
            assert server.get("/page/", host)[2] == f"ws://{host}:{server.port}/ws/"
            cookie = server.log_in("mary") if address != "::1" else None
            with server.client("subscribe-broadcast&subscribe-user", host, cookie) as client:
                text = unique()
                server.get(f"/publish/?text={text}", host)
                client.expect(text)


def own_address():
    """Returns an address of this machine other than loopback, as a LAN has it."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))
        except OSError:
            return "127.0.0.2"
        return probe.getsockname()[0]


def test_two_projects_do_not_share_a_store(project, tmp_path):
    other = Project.__new__(Project)
    other.home = shutil.copytree(project.home, tmp_path / "other")
    other.python, other.store_port = project.python, project.store_port
    with project.serve("--noreload") as server, server.client() as client:
        # Without its own folder of snapshots: the name has to tell them apart.
        with other.serve("--noreload", XDG_CACHE_HOME=project.home / "cache") as second:
            until(second.output, lambda output: "belongs to runserver of another project (site-" in output, "the error")
            assert second.get("/page/")[0] == 200
            assert second.get("/ws/foobar")[0] == 404
        server.publish("mine")
        client.expect("mine")
        with project.serve("--noreload") as again, again.client() as further:
            again.publish("of-the-same-project")
            further.expect("of-the-same-project")
            client.expect("of-the-same-project")


def test_sessions_in_the_embedded_store_survive_a_restart(project):
    project.append(
        "settings",
        f"""
SESSION_ENGINE = "django.contrib.sessions.backends.cache"
CACHES = {{"default": {{"BACKEND": "django.core.cache.backends.redis.RedisCache", "LOCATION": "redis://localhost:{project.store_port}/0"}}}}
""",
    )
    with project.serve("--noreload") as server:
        # Until the store listens, Django cannot store a session.
        until(lambda: accepts(project.store_port), True, "the store", START_SECONDS)
        cookie = server.log_in("mary")
    with project.serve("--noreload") as server, server.client("subscribe-user", cookie=cookie) as client:
        until(lambda: accepts(project.store_port), True, "the store", START_SECONDS)
        server.publish("kept", user="mary")
        client.expect("kept")


def test_the_site_is_served_without_a_gateway(project):
    with project.serve("--no-gateway", "--noreload") as server:
        assert server.get("/page/")[0] == 200
        assert server.get("/ws/foobar")[0] == 404
        assert not [line for line in server.processes().values() if "--end-with-stdin" in line]
    project.append("settings", "\nWS4REDIS_BINARY = '/nonexistent/ws4redis'\n")
    with project.serve("--nostatic") as server:
        assert server.get("/page/")[0] == 200
        assert server.get("/static/js/ws4redis.js")[0] == 404
        output = server.output()
        assert output.count("WS4REDIS_BINARY is '/nonexistent/ws4redis', which is no program.") == 1, output


def test_a_socket_io_client_connects_at_its_own_path(project):
    project.append("settings", "\nWS4REDIS_GATEWAY = {'socketio': {'enabled': True}}\n")
    with project.serve("--noreload") as server:
        status, _, body = server.get("/socket.io/?EIO=4&transport=polling")
        assert status == 200, body
        assert body.startswith('0{"sid"'), body
