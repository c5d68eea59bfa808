"""Two sites in the form that the documents of django-websocket-redis show, moved by the list in docs/django.md."""

import re
import shutil
import site
import subprocess
import sys

import pytest
from documents import shows
from harness import Client, Process, accepts, clean_environment, free_port, unique, until
from project import PACKAGE
from test_shell import UPSTREAM

DJANGO = "docs/django.md"
MOVING = "Moving from django-websocket-redis"
SECRET_KEY = "of the tests of the documents"
# The rule that lets the test see that a gateway is ready.
READY = '[[access]]\nfacility = ["ready"]\nanonymous = ["subscribe-broadcast"]\n\n'

# What both sites have: settings, view and page.
SETTINGS = f"""
SECRET_KEY = {SECRET_KEY!r}
INSTALLED_APPS += ["ws4redis"]
TEMPLATES[0]["OPTIONS"]["context_processors"].append("ws4redis.context_processors.default")
TEMPLATES[0]["DIRS"].append(BASE_DIR / "templates")
WEBSOCKET_URL = "/ws/"
WS4REDIS_CONNECTION = {{"host": "localhost", "port": 6379}}
WS4REDIS_EXPIRE = 7200
WS4REDIS_HEARTBEAT = "--heartbeat--"
WSGI_APPLICATION = "ws4redis.django_runserver.application"
"""
VIEWS = """
from django.http import HttpResponse
from django.shortcuts import render
from ws4redis.publisher import RedisPublisher
from ws4redis.redis_store import RedisMessage, SELF

def chat(request):
    return render(request, "chat.html")

def say(request):
    users = [SELF] if request.user.is_authenticated else []
    publisher = RedisPublisher(facility="foobar", broadcast=True, users=users, request=request)
    publisher.publish_message(RedisMessage("Hello everybody"))
    return HttpResponse("OK")
"""
URLS = """
from mysite import views
urlpatterns += [path("chat/", views.chat), path("say/", views.say)]
"""
PAGE = """
<p>{{ user }}</p>
<script src="/static/js/ws4redis.js"></script>
<script>
    var ws4redis = WS4Redis({
        uri: '{{ WEBSOCKET_URI }}foobar?subscribe-broadcast&publish-broadcast&echo',
        receive_message: function(message) { document.body.append(message); },
        heartbeat_msg: {{ WS4REDIS_HEARTBEAT }}
    });
</script>
"""
# The site whose development server has the loop.
ONE_PROCESS = """
CACHES = {"default": {"BACKEND": "django.core.cache.backends.redis.RedisCache", "LOCATION": "redis://localhost:6379/0"}}
SESSION_ENGINE = "django.contrib.sessions.backends.cache"
"""
# The site behind nginx, with a second uWSGI for WebSockets, and rules in Python.
TWO_PROCESSES = """
SESSION_ENGINE = "redis_sessions.session"
SESSION_REDIS = {"host": "localhost", "port": 6379, "db": 0, "prefix": "session"}
WS4REDIS_PREFIX = "demo"
WS4REDIS_SUBSCRIBER = "mysite.channels.Subscriber"
WS4REDIS_ALLOWED_CHANNELS = "mysite.channels.get_allowed_channels"
"""
CHANNELS = """
from django.core.exceptions import PermissionDenied
from ws4redis.subscriber import RedisSubscriber

class Subscriber(RedisSubscriber):
    subscription_channels = RedisSubscriber.subscription_channels + ["subscribe-team"]

def get_allowed_channels(request, channels):
    if not request.user.is_authenticated:
        raise PermissionDenied("not allowed to subscribe nor to publish")
    return channels
"""
WSGI = """
import os
os.environ["DJANGO_SETTINGS_MODULE"] = "mysite.settings"
from django.conf import settings
from django.core.wsgi import get_wsgi_application
from ws4redis.uwsgi_runserver import uWSGIWebsocketServer

_django_app = get_wsgi_application()
_websocket_app = uWSGIWebsocketServer()

def application(environ, start_response):
    if environ.get("PATH_INFO").startswith(settings.WEBSOCKET_URL):
        return _websocket_app(environ, start_response)
    return _django_app(environ, start_response)
"""
WSGI_WEBSOCKET = """
import gevent.socket
import redis.connection
redis.connection.socket = gevent.socket
from ws4redis.uwsgi_runserver import uWSGIWebsocketServer
application = uWSGIWebsocketServer()
"""
# Django is reached by HTTP here, not by the protocol of uWSGI.
NGINX = """
location / {
    proxy_set_header Host $http_host;
    proxy_pass http://127.0.0.1:DJANGO;
}
location /ws/ {
    proxy_http_version 1.1;
    proxy_set_header Upgrade $http_upgrade;
    proxy_set_header Connection "upgrade";
    proxy_pass http://unix:/path/to/web.socket;
}
"""


@pytest.fixture
def old_site(project, tmp_path):
    """Returns a function that gives the project the form of upstream, with the old package in an environment of its own."""
    home = tmp_path / "venv"
    python = home / "bin" / "python"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", home], check=True, timeout=60)
    own = subprocess.run(
        [python, "-c", "import site; print(site.getsitepackages()[0])"], capture_output=True, text=True, check=True
    ).stdout.strip()
    # What the tests have already is not installed again.
    with open(f"{own}/tests.pth", "w") as paths:
        paths.write("\n".join(site.getsitepackages()))
    for part in ("ws4redis", "django_websocket_redis-*", "six.py"):
        (found,) = UPSTREAM.glob(f"python*/site-packages/{part}")
        (shutil.copytree if found.is_dir() else shutil.copy)(found, f"{own}/{found.name}")
    # pip of the tests, for the environment of the site.
    (home / "bin" / "pip").write_text(f'#!/bin/sh\nexec {sys.executable} -m pip --python {python} "$@"\n')
    (home / "bin" / "pip").chmod(0o755)
    path = clean_environment()["PATH"]
    project.environment = {"PATH": f"{home / 'bin'}:{path}"}
    project.python = python

    def form(settings):
        project.settings(SETTINGS + settings)
        project.module("views", VIEWS)
        project.urls(URLS)
        project.template("chat.html", PAGE)
        assert project.command("python -c 'import ws4redis; print(ws4redis.__version__)'") == "0.6.0\n"
        return project

    return form


def remains(project):
    """Runs `manage.py check`; returns the identifiers of its findings, and its output."""
    try:
        text = project.command("python manage.py check 2>&1")
    except AssertionError as failed:
        text = str(failed)
    return sorted(set(re.findall(r"\(ws4redis\.(\w+)\)", text))), text


def without(project, *names):
    """Deletes settings, each in a line."""
    file = project.home / "mysite" / "settings.py"
    lines = file.read_text().splitlines()
    file.write_text("\n".join(line for line in lines if not line.startswith(tuple(f"{name} =" for name in names))))


def uninstall_and_install(project, block):
    """Follows the first step: removes the old package, and adds this one."""
    removal, installation = block.code.splitlines()
    project.command(removal)
    # The package is not built here: test_wheel.py does.
    assert installation.startswith("pip install ")
    project.environment["PYTHONPATH"] = PACKAGE


def move_up(project):
    """Moves the app above `django.contrib.staticfiles`."""
    file = project.home / "mysite" / "settings.py"
    below, above = 'INSTALLED_APPS += ["ws4redis"]', 'INSTALLED_APPS = ["ws4redis", *INSTALLED_APPS]'
    assert below in file.read_text()
    file.write_text(file.read_text().replace(below, above))


def serve(project, *options):
    """Starts the development server in the environment of the site."""
    project.site_port = free_port()
    command = [project.python, "manage.py", "runserver", "--noreload", *options, f"127.0.0.1:{project.site_port}"]
    server = Process(command, env=clean_environment(**project.environment), cwd=project.home)
    server.wait_until(lambda: accepts(project.site_port), "Django")
    return server


def nginx(home, locations):
    """Starts nginx with these locations; returns the process, with its port."""
    port = free_port()
    temporary = "".join(f"{kind}_temp_path {home}/{kind};\n" for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi"))
    config = home / "nginx.conf"
    config.write_text(
        f"pid {home}/pid;\nerror_log stderr;\ndaemon off;\nevents {{}}\nhttp {{\naccess_log off;\n{temporary}"
        f"server {{\nlisten 127.0.0.1:{port};\n{locations}}}\n}}\n"
    )
    program = shutil.which("nginx") or "/usr/sbin/nginx"
    server = Process([program, "-p", home, "-c", config], env=clean_environment())
    server.wait_until(lambda: accepts(port), "nginx")
    server.port = port
    return server


def page_of(port, session, flags="subscribe-broadcast&subscribe-user"):
    """Opens the WebSocket of a page that a browser has loaded from this port."""
    headers = {"Cookie": f"sessionid={session}"} if session else {}
    url = f"ws://127.0.0.1:{port}/ws/foobar?{flags}"
    return Client(url, origin=f"http://127.0.0.1:{port}", additional_headers=headers)


@shows(DJANGO, MOVING, 1, 2, 3, 4, 5, 6, 7)
def test_a_site_behind_nginx_is_moved_by_the_list(blocks, old_site, gateway, store, tmp_path):
    packages, settings, wsgi, check, doctor, location, handshake = blocks
    project = old_site(TWO_PROCESSES)
    project.module("channels", CHANNELS)
    project.module("wsgi", WSGI)
    project.module("wsgi_websocket", WSGI_WEBSOCKET)
    project.shell(
        "from ws4redis.publisher import RedisPublisher\nfrom ws4redis.redis_store import RedisMessage\n"
        "RedisPublisher(facility='foobar', broadcast=True).publish_message(RedisMessage('Hello'))"
    )
    assert store.client.getdel("demo:broadcast:foobar") == b"Hello", "the old package published it"
    # John logs in before the site moves.
    session = project.session()

    uninstall_and_install(project, packages)
    found, _ = remains(project)
    assert found == ["E019", "W004", "W008", "W010", "W011", "W020"]
    move_up(project)
    project.settings(settings.code)
    project.module("wsgi", wsgi.code)
    (project.home / "mysite" / "wsgi_websocket.py").unlink()
    assert remains(project)[0] == ["E019", "W004"]
    (project.home / "mysite" / "channels.py").unlink()
    without(project, "WS4REDIS_SUBSCRIBER", "WS4REDIS_ALLOWED_CHANNELS")
    assert "no issues" in project.command(check.code)

    # No gateway runs yet, which is an error; the settings follow it.
    with pytest.raises(AssertionError, match="no gateway listens") as failed:
        project.command(doctor.code)
    report = str(failed.value).partition("as its settings.toml:\n")[2].partition("CommandError")[0]
    file = tmp_path / "settings.toml"
    # As a line of the report says, the secret is in a file of its own.
    (tmp_path / "secret_key").write_text(SECRET_KEY)
    uncommented = report.replace('# Or: secret_key_file = "/etc/ws4redis/secret_key"', f'secret_key_file = "{tmp_path}/secret_key"')
    assert uncommented != report
    file.write_text("anonymous_publish = false\n" + uncommented)
    here = gateway(file=file)
    # The gateway behind nginx is another one than that of the development server.
    served = serve(project, "--no-gateway")
    locations = NGINX.replace("DJANGO", str(project.site_port))
    before = locations[locations.index("location /ws/") :]
    after = location.filled({"127.0.0.1:8000": f"127.0.0.1:{here.port}"})
    changed = [line.strip() for line in after.splitlines() if line not in before.splitlines()]
    assert len(changed) == 2, "the document promises two lines"
    proxy = nginx(tmp_path, locations.replace(before, after))
    try:
        address = f"http://127.0.0.1:{proxy.port}"
        text = project.command(handshake.filled({"http://www.example.com": address}))
        assert "the settings of what is on match" in text
        assert f"a page of {address} opens" in text
        # Existing sessions get the name with the next request that reads them.
        visit(proxy.port, "/chat/", session)
        with page_of(proxy.port, session) as john, page_of(proxy.port, None) as stranger:
            until(lambda: store.client.pubsub_numsub("demo:user:john:foobar"), [(b"demo:user:john:foobar", 1)], "John")
            visit(proxy.port, "/say/", session)
            expect(john, "Hello everybody", "Hello everybody")
            expect(stranger, "Hello everybody")
    finally:
        proxy.stop()
        served.stop()


@shows(DJANGO, MOVING, 1, 2, 3, 4)
def test_a_site_with_the_loop_in_runserver_is_moved_by_the_list(blocks, old_site, gateway, store):
    packages, settings, wsgi, check = blocks
    project = old_site(ONE_PROCESS)
    session = project.session()
    uninstall_and_install(project, packages)
    assert remains(project)[0] == ["W008", "W010", "W020"]
    # A loop that is left over serves the site all the same.
    project.settings(settings.code.splitlines()[0])
    served = serve(project)
    try:
        assert visit(project.site_port, "/ws/foobar", None, status=501).startswith("This server has no WebSockets")
        assert f"ws://127.0.0.1:{project.site_port}/ws/foobar?" in visit(project.site_port, "/chat/", session)
    finally:
        served.stop()
    without(project, "WSGI_APPLICATION")
    move_up(project)
    project.module("wsgi", wsgi.code)
    project.settings(settings.code.splitlines()[1])
    assert "no issues" in project.command(check.code)
    here = gateway(heartbeat="--heartbeat--")
    headers = {"Cookie": f"sessionid={session}"}
    with here.connect("foobar", "subscribe-broadcast&subscribe-user", additional_headers=headers) as john:
        project.get(("/say/", None, {}))
        expect(john, "Hello everybody")


def visit(port, path, session, status=200):
    """Loads a page as a browser does; returns its text."""
    command = ["curl", "-s", "-w", "\n%{http_code}", f"http://127.0.0.1:{port}{path}"]
    command += ["-H", f"Cookie: sessionid={session}"] if session else []
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    text, _, answered = done.stdout.rpartition("\n")
    assert int(answered) == status, text
    return text


def expect(client, *messages):
    """Expects these messages next, with heartbeats in between."""
    for message in messages:
        received = client.receive()
        while received == "--heartbeat--":
            received = client.receive()
        assert received == message


@pytest.mark.parametrize(
    ("rule", "user", "flags", "expected"),
    [
        (0, None, "subscribe-broadcast", 403),
        (0, "john", "subscribe-broadcast&publish-broadcast", 101),
        (1, None, "subscribe-broadcast&publish-broadcast", 101),
    ],
)
@shows(DJANGO, "Access rules", 1, 2)
def test_the_usual_rules_are_translated(blocks, gateway, store, john, tmp_path, rule, user, flags, expected):
    texts = [block.code for block in blocks]
    file = tmp_path / "settings.toml"
    file.write_text(READY + texts[rule])
    here = gateway(file=file)
    cookie = [f"Cookie: sessionid={john.session}", "Origin: http://127.0.0.1"] if user else []
    facility = unique()
    assert here.handshake(f"/ws/{facility}?{flags}", *cookie)[0] == expected
    if expected == 101:
        headers = {"Cookie": f"sessionid={john.session}"} if user else {}
        with here.connect(facility, f"{flags}&echo", additional_headers=headers) as client:
            client.send("from a page")
            if rule == 0:
                client.expect("from a page")
            client.expect_nothing_before(lambda text: store.client.publish(f"broadcast:{facility}", text))


@shows(DJANGO, "Access rules", 3)
def test_superusers_by_the_view(blocks, project):
    project.settings("INSTALLED_APPS += ['ws4redis']\n")
    project.module("rules", blocks[0].code)
    answer = project.shell(
        "from types import SimpleNamespace as User\nfrom mysite.rules import SiteIdentityView\n"
        "flags = ['subscribe-user', 'publish-broadcast']\n"
        "users = [None, User(is_superuser=False), User(is_superuser=True)]\n"
        "answer = [SiteIdentityView().allow(None, user, 'x', flags) for user in users]"
    )
    assert answer == [["subscribe-user"], ["subscribe-user"], ["subscribe-user", "publish-broadcast"]]


@shows(DJANGO, "Sites below Django 4.2")
def test_the_old_package_stays_and_only_the_server_changes(blocks, old_site, gateway, store):
    project = old_site(ONE_PROCESS)
    project.settings("INSTALLED_APPS += ['mysite']\n")
    project.module("models", blocks[0].code)
    here = gateway(heartbeat="--heartbeat--")
    headers = {"Cookie": f"sessionid={project.session()}"}
    with here.connect("foobar", "subscribe-user", additional_headers=headers) as john:
        until(lambda: store.client.pubsub_numsub("user:john:foobar"), [(b"user:john:foobar", 1)], "John")
        project.get(("/say/", "john", {}))
        expect(john, "Hello everybody")

