"""A new Django project that takes the code blocks as a reader of the documents would insert them."""

import json
import os
import shutil
import subprocess
import sys

from documents import ROOT
from harness import Process, accepts, clean_environment, free_port

PACKAGE = ROOT / "python"
PEOPLE = """
from django.contrib.auth.models import User
User.objects.create_user("mary")
User.objects.create_user("admin", is_staff=True)
john = User.objects.create_user("john")
"""


class Project:
    """A project of `django-admin startproject mysite` with a database and the users john, mary and admin."""

    def __init__(self, empty, home, store):
        self.home = shutil.copytree(empty, home / "mysite")
        self.port = store.port
        self.environment = {"PYTHONPATH": PACKAGE}
        self.settings("ALLOWED_HOSTS = ['*']\nTEMPLATES[0]['DIRS'] = [BASE_DIR]\n")

    @staticmethod
    def make_empty(home):
        """Creates the initial state of all projects."""
        manage = [sys.executable, home / "manage.py"]
        for command in (
            [sys.executable, "-m", "django", "startproject", "mysite", home],
            [*manage, "migrate", "-v0"],
            [*manage, "shell", "-v0", "-c", PEOPLE],
        ):
            done = subprocess.run(
                command, env=clean_environment(), capture_output=True, text=True, timeout=60, check=False
            )
            assert done.returncode == 0, done.stdout + done.stderr

    def settings(self, code):
        """Appends to settings.py; replaces the document's Redis by that of the test."""
        self._append(
            "settings",
            code.replace("localhost:6379", f"localhost:{self.port}").replace('"port": 6379', f'"port": {self.port}'),
        )

    def urls(self, code):
        self._append("urls", code)

    def module(self, name, code):
        """Writes the module `mysite.<name>`."""
        (self.home / "mysite" / f"{name}.py").write_text(code)

    def template(self, name, text):
        """Writes a template into the folder that the document's settings name."""
        folder = self.home / "templates"
        folder.mkdir(exist_ok=True)
        (folder / name).write_text(text)

    def _append(self, name, code):
        with (self.home / "mysite" / f"{name}.py").open("a") as file:
            file.write(f"\n{code}")

    def command(self, command, **environment):
        """Runs a shell command in the directory of manage.py; returns its output."""
        path = os.pathsep.join([os.path.dirname(sys.executable), os.environ["PATH"]])
        done = subprocess.run(
            ["bash", "-ec", command],
            cwd=self.home,
            env=clean_environment(**({"PATH": path} | self.environment | environment)),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert done.returncode == 0, f"{command}\n{done.stdout}{done.stderr}"
        return done.stdout

    def shell(self, code, **values):
        """Runs code within Django with these variables; returns its variable `answer`."""
        lines = [f"{name} = {value!r}" for name, value in values.items()]
        code = "\n".join([*lines, code, "import json", "print(json.dumps(globals().get('answer')))"])
        (self.home / "console.py").write_text(code)
        # Runs by exec, so that functions see the variables.
        return json.loads(
            self.command("python manage.py shell -v0 -c \"exec(open('console.py').read(), {})\"").splitlines()[-1]
        )

    def session(self, username="john"):
        """Logs the user in; returns the value of the session cookie."""
        return self.shell(
            "from django.contrib.auth.models import User\nfrom django.test import Client\nbrowser = Client()\n"
            "browser.force_login(User.objects.get(username=username))\nanswer = browser.cookies['sessionid'].value",
            username=username,
        )

    def get(self, *requests):
        """Requests pages, each given as path, username or None, and headers; returns pairs of status and text."""
        return self.shell(
            "from django.contrib.auth.models import User\nfrom django.test import Client\nanswer = []\n"
            "for path, username, headers in requests:\n"
            "    browser = Client()\n"
            "    if username: browser.force_login(User.objects.get(username=username))\n"
            "    got = browser.get(path, headers=headers)\n"
            "    answer.append([got.status_code, got.content.decode()])",
            requests=requests,
        )

    def serve(self):
        """Starts Django's development server."""
        self.site_port = free_port()
        command = [sys.executable, self.home / "manage.py", "runserver", "--noreload", f"127.0.0.1:{self.site_port}"]
        server = Process(command, env=clean_environment(**self.environment), cwd=self.home)
        server.wait_until(lambda: accepts(self.site_port), "Django")
        return server

    def render(self, template, host):
        """Renders the template as a page of this host."""
        (self.home / "page.html").write_text(template)
        return self.shell(
            "from django.template.loader import render_to_string\nfrom django.test import RequestFactory\n"
            "answer = render_to_string('page.html', request=RequestFactory().get('/', headers={'host': host}))",
            host=host,
        )
