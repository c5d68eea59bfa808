"""The site as a process, over HTTP: log in, chat, log out."""

import http.cookiejar
import json
import os
import re
import socket
import subprocess
import sys
import urllib.error
import urllib.parse
import urllib.request
from pathlib import Path

import pytest
from conftest import SERVER
from stores import DEADLINE_SECONDS, ChannelRecorder, wait_for

MANAGE = Path(__file__).parents[1] / "django" / "manage.py"
SECRET = "a secret of some length"
PORTS = range(18080, 18100)


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """The address of a running site with its users."""
    directory = tmp_path_factory.mktemp("site")
    environment = os.environ | {
        "SITE_DATABASE": str(directory / "site.sqlite3"),
        "SITE_CALLBACK_SECRET": SECRET,
    }

    def manage(*arguments):
        return subprocess.run(
            [sys.executable, MANAGE, *arguments], env=environment, check=True, stdout=subprocess.PIPE
        )

    manage("migrate", "--verbosity", "0")
    manage("make_people")
    address = f"127.0.0.1:{free_port()}"
    with (directory / "log").open("w") as log:
        server = subprocess.Popen(
            [sys.executable, MANAGE, "runserver", "--noreload", address],
            env=environment,
            stdout=log,
            stderr=log,
        )
        wait_for(lambda: server.poll() is not None or answers(address), "the site")
        assert server.poll() is None, (directory / "log").read_text()
        yield f"http://{address}"
        server.terminate()
        server.wait(DEADLINE_SECONDS)


def free_port():
    """Returns an unused port."""
    for port in PORTS:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) != 0:
                return port
    raise AssertionError(f"no free port of {PORTS}")


def answers(address):
    """Tests whether the site answers."""
    try:
        return (
            urllib.request.urlopen(f"http://{address}/accounts/login/", timeout=DEADLINE_SECONDS).status
            == 200
        )
    except OSError:
        return False


class Browser:
    """A browser with cookies that fills in forms."""

    def __init__(self, site):
        """Starts without cookies."""
        self.site = site
        self.cookies = http.cookiejar.CookieJar()
        self.opener = urllib.request.build_opener(urllib.request.HTTPCookieProcessor(self.cookies))

    def get(self, path):
        """Returns a page as text."""
        with self.opener.open(self.site + path, timeout=DEADLINE_SECONDS) as answer:
            return answer.read().decode()

    def post(self, path, page=None, **fields):
        """Posts a form with the CSRF token of its page."""
        token = re.search(
            r'csrfmiddlewaretoken"? value="(\w+)"|csrfmiddlewaretoken: \'(\w+)\'', self.get(page or path)
        )
        fields["csrfmiddlewaretoken"] = token[1] or token[2]
        with self.opener.open(
            self.site + path, urllib.parse.urlencode(fields).encode(), timeout=DEADLINE_SECONDS
        ) as answer:
            return answer.read().decode()

    def cookie(self, name):
        """Returns a cookie's value, or None."""
        return next((cookie.value for cookie in self.cookies if cookie.name == name), None)


def test_from_login_to_logout(store, site):
    browser = Browser(site)
    browser.post("/accounts/login/", username="john", password="secret")
    key = browser.cookie("sessionid")
    assert json.loads(browser.get("/")) == {"user": "john", "session": key}

    recorder = ChannelRecorder(
        store, "broadcast:foobar", "user:mary:foobar", "group:chatusers:foobar", "ws4redis:control"
    )
    browser.get("/chat/")
    assert browser.post("/userchat/", user="mary", message="Hi mary") == "1 receivers"
    assert browser.post("/groupchat/", group="chatusers", message="Hi all") == "1 receivers"
    assert recorder.received(3) == ["Hello everybody", "Hi mary", "Hi all"]
    assert store.get("user:mary:foobar") == b"Hi mary"
    assert "<option>mary</option>" in browser.get("/userchat/")

    request = urllib.request.Request(
        site + "/ws4redis/identity/?facility=foobar&flag=subscribe-user",
        headers={"Cookie": f"sessionid={key}", "X-WS4Redis-Secret": SECRET},
    )
    with urllib.request.urlopen(request, timeout=DEADLINE_SECONDS) as answer:
        assert json.load(answer) == {
            "user": "john",
            "id": "1",
            "groups": ["chatusers", "red team"],
            "session": key,
            "expires_in": 300,
        }
    request.remove_header("X-ws4redis-secret")
    with pytest.raises(urllib.error.HTTPError, match="403"):
        urllib.request.urlopen(request, timeout=DEADLINE_SECONDS)

    browser.post("/accounts/logout/", page="/userchat/")
    pk = store.keys("ws4redis:identity:*")[0].decode().rpartition(":")[2]
    # The page with the logout's CSRF token broadcasts a greeting, which /userchat/ does not receive.
    assert recorder.received(1) == [f'{{"v":1,"user":"{pk}","reason":"logout"}}']
    assert browser.cookie("sessionid") is None
    assert not store.exists(f":1:django.contrib.sessions.cache{key}")
    recorder.close()


def test_the_doctor_and_the_checks_run_from_the_command_line(store, site):
    environment = os.environ | {"SITE_CALLBACK_SECRET": SECRET}
    command = [sys.executable, MANAGE]
    checked = subprocess.run(
        [*command, "check", "--fail-level", "WARNING"], env=environment, capture_output=True, check=False
    )
    assert checked.returncode == 0, checked.stderr
    done = subprocess.run(
        [*command, "ws4redis_doctor", "--wait", "0.1"], env=environment, capture_output=True, check=False
    )
    assert done.returncode == 1
    assert b"no gateway listens on ws4redis:control" in done.stdout
    assert f'url = "unix://{SERVER.path}' in done.stdout.decode()
