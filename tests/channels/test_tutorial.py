"""The chat of the tutorial in a browser: one test for all forms of the site."""

import hashlib
import http.cookiejar
import json
import os
import subprocess
import sys
import urllib.parse
import urllib.request

import pytest
from conftest import HERE, SITE
from harness import DEADLINE

SECONDS = 120


def test_the_chat_works_in_a_browser(form):
    announce = f"{sys.executable} {SITE / 'manage.py'} announce"
    done = subprocess.run(
        ["node", HERE / "tutorial.mjs", form.origin],
        env={**form.environment(), "ANNOUNCE": announce, "PATH": os.environ["PATH"]},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=SECONDS,
        check=False,
    )
    assert done.returncode == 0, f"{done.stdout}\n{form.site.output()}"


RECEIVE = """
import asyncio, json
from channels.layers import get_channel_layer
print(json.dumps(asyncio.run(asyncio.wait_for(get_channel_layer().receive("incoming"), 30))))
"""


def log_in(form, username):
    """Returns the key of a new session."""
    jar = http.cookiejar.CookieJar()
    opener = urllib.request.build_opener(
        urllib.request.ProxyHandler({}), urllib.request.HTTPCookieProcessor(jar)
    )
    data = urllib.parse.urlencode({"username": username, "password": "secret"}).encode()
    opener.open(f"{form.origin}/api/login/", data, timeout=DEADLINE).close()
    return next(cookie.value for cookie in jar if cookie.name == "sessionid")


def test_a_worker_receives_what_a_page_publishes(form):
    if form.server == "channels":
        pytest.skip("with consumers, pages send to them")
    session = log_in(form, "john")
    if form.layer == "core":
        send(form, session)
    worker = subprocess.Popen(
        [sys.executable, "manage.py", "shell", "-c", RECEIVE],
        cwd=SITE,
        env=form.environment(),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        text=True,
    )
    if form.layer == "pubsub":
        form.wait_for_subscriber("incoming")
        send(form, session)
    output, _ = worker.communicate(timeout=60)
    assert json.loads(output.splitlines()[-1]) == {
        "type": "page.message",
        "text": "Grüße",
        "user": "john",
        "session": hashlib.sha256(f"ws4redis:session:{session}".encode()).hexdigest(),
        "facility": "feedback",
    }


def send(form, session):
    headers = {"Cookie": f"sessionid={session}"}
    with form.gateway.connect(
        "feedback", "publish-broadcast", origin=form.origin, additional_headers=headers
    ) as client:
        client.send("Grüße")
