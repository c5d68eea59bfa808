"""The new site of docs/django.md, step by step: from an empty folder and a wheel to a message in Chromium.

By default the wheel is the one without a binary, and the debug build stands next to Python, where a wheel installs its
binary. WS4REDIS_WHEELS names a folder with the real wheel.
"""

import os
import sys
import sysconfig
from pathlib import Path

import pytest
import redis
from documents import ROOT, find, shows
from harness import BINARY, DEADLINE, Process, accepts, clean_environment, free_port, until
from test_shell import bash

DJANGO = "docs/django.md"
NEW_SITE = "A new site in five minutes"
PACKAGES = Path(sysconfig.get_path("purelib"))
WHEELS = os.environ.get("WS4REDIS_WHEELS")
START_SECONDS = 60
JOHN = "from django.contrib.auth.models import User; User.objects.create_user('john')"
LOGIN = """
from django.contrib.auth.models import User
from django.test import Client
browser = Client()
browser.force_login(User.objects.get(username='john'))
print(browser.cookies['sessionid'].value)
"""
AS_VIEW = """
from django.contrib.auth.models import User
from django.test import RequestFactory
request = RequestFactory().get('/')
request.user = User.objects.get(username='john')
"""


def user_is_known(redis_port):
    with redis.Redis(port=redis_port) as client:
        return b"user:john:foobar" in client.pubsub_channels()


@pytest.fixture
def environment(tmp_path):
    """A fresh virtual environment with Django and redis-py, and where pip finds the wheel."""
    home, wheels = tmp_path / "venv", Path(WHEELS or tmp_path / "wheels")
    bash(f"{sys.executable} -m venv --without-pip {home}", tmp_path)
    (packages,) = home.glob("lib/python*/site-packages")
    (packages / "tests.pth").write_text(str(PACKAGES))
    (home / "bin/pip").write_text(f'#!/bin/sh\nexec {home}/bin/python -m pip "$@"\n')
    (home / "bin/pip").chmod(0o755)
    if not WHEELS:
        copy = tmp_path / "checkout"
        bash(f"mkdir {copy} && cp -r {ROOT}/python {ROOT}/static {copy}/ && rm -rf {copy}/python/build", tmp_path)
        # The build tools are installed already.
        options = "--no-deps --no-build-isolation --no-index"
        bash(f"{sys.executable} -m pip wheel -q {options} --wheel-dir {wheels} {copy}/python", tmp_path)
        (home / "bin/ws4redis").symlink_to(BINARY)
    return clean_environment(
        PATH=f"{home}/bin{os.pathsep}{os.environ['PATH']}",
        PIP_NO_INDEX=1,
        PIP_NO_DEPS=1,
        PIP_FIND_LINKS=wheels,
        # Where the embedded store keeps sessions.
        XDG_CACHE_HOME=tmp_path / "cache",
        PYTHONDONTWRITEBYTECODE=1,
    )


@shows(DJANGO, NEW_SITE, 1, 2, 3, 4, 5, 6)
@shows(DJANGO, "Messages to one user")
@pytest.mark.xdist_group("pages")
def test_a_new_site_from_an_empty_folder_shows_a_message(blocks, environment, chromium, tmp_path):
    install, settings, template, urls, start, everybody, user = blocks
    home, port, redis_port = tmp_path / "site", free_port(), free_port()
    home.mkdir()

    def run(command):
        return bash(command, home, START_SECONDS, **environment)

    def shell(code):
        (home / "code.py").write_text(code)
        return run("python manage.py shell -v0 -c \"exec(open('code.py').read(), {})\"").strip()

    run(install.code)
    run("python -m django startproject mysite .")
    with (home / "mysite/settings.py").open("a") as file:
        file.write(settings.filled({"localhost:6379": f"localhost:{redis_port}", '"port": 6379': f'"port": {redis_port}'}))
    with (home / "mysite/urls.py").open("a") as file:
        file.write(urls.code)
    (home / "templates").mkdir()
    (home / "templates/hello.html").write_text(template.code)
    migrate, serve = start.code.strip().splitlines()
    run(migrate)
    server = Process(["bash", "-c", f"exec {serve} {port}"], env=environment, cwd=home)
    pages = []
    try:
        server.wait_until(lambda: accepts(port), "runserver", START_SECONDS)
        until(server.output, lambda text: "WebSockets at /ws/" in text, "the gateway", START_SECONDS)
        assert "System check identified no issues" in server.output()
        until(lambda: accepts(redis_port), True, "the embedded store", START_SECONDS)
        shell(JOHN)

        def open_page(*cookies):
            pages.append(chromium.open(f"http://127.0.0.1:{port}/hello/", cookies))
            until(lambda: pages[-1].run("return socket.state"), "open", "the connection", START_SECONDS)

        def shown(page):
            return page.run("return document.body.textContent.trim()")

        open_page()
        # As after a login; the first page stays anonymous, since it is connected.
        open_page(("sessionid", shell(LOGIN)))
        until(lambda: user_is_known(redis_port), True, "the channel of the user")
        shell(everybody.code)
        until(lambda: [shown(page) for page in pages], ["Hello", "Hello"], "the message to everybody")
        shell(AS_VIEW + user.code)
        until(lambda: [shown(page) for page in pages], ["Hello", 'Hello{"unread":3}'], "the message to John")
        # An error makes the command fail.
        assert "ERROR" not in run("python manage.py ws4redis_doctor --wait 1")
    finally:
        for page in pages:
            page.close()
        server.process.terminate()
        server.process.wait(2 * DEADLINE)
        server.stop()
    until(lambda: accepts(redis_port), False, "the end of the gateway")


@shows(DJANGO, "One place for both")
def test_the_settings_of_the_gateway_in_those_of_django(blocks, project, tmp_path):
    project.settings(find(DJANGO, NEW_SITE, 2).code)
    project.settings(blocks[0].code)
    file = tmp_path / "settings.toml"
    project.command(f"python manage.py ws4redis_settings --output {file}")
    printed = bash(f"{BINARY} --settings {file} check", tmp_path)
    assert "anonymous" in printed or "/ws/" in printed
