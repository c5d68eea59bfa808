"""The site of the tutorial in each form: Daphne with consumers, and the gateway without."""

import itertools
import os
import pathlib
import random
import subprocess
import sys

import harness
import pytest
import redis
from harness import Gateway, Process, RedisServer, accepts, clean_environment, free_port, until

HERE = pathlib.Path(__file__).resolve().parent
SITE = HERE / "site"
PACKAGE = HERE.parents[1] / "python"
# Disjoint from the ports of the other suites.
harness.PORTS = itertools.cycle(random.sample(range(19500, 19700), 200))

# The facility of the harness, which waits until it opens.
READY = """
[[access]]
facility = ["ready"]
anonymous = ["subscribe-broadcast"]
"""


class Form:
    """One form of the site, with a Redis of its own.

    Args:
        name: `channels-core`, `channels-pubsub`: Daphne and the layer. `gateway-core`, `gateway-pubsub`: the gateway.
        directory: An empty directory for the site's database and the gateway's settings.
    """

    def __init__(self, name, directory):
        self.server, self.layer = name.split("-")
        self.started = []
        try:
            self.redis = self._start(RedisServer())
            self.port = free_port()
            self.origin = f"http://127.0.0.1:{self.port}"
            self.variables = {
                "SITE_SERVER": self.server,
                "SITE_LAYER": self.layer,
                "SITE_REDIS": f"{self.redis.url}/0",
                "SITE_DATABASE": directory / "site.sqlite3",
            }
            if self.server == "gateway":
                self.gateway = self._start(self._gateway(directory))
                self.variables["SITE_SOCKETS"] = f"ws://127.0.0.1:{self.gateway.port}/ws/"
            for words in (["migrate", "-v0"], ["make_people"]):
                self.manage(*words)
            self.site = self._start(Process(self._command(), env=self.environment(), cwd=SITE))
            self.site.wait_until(lambda: accepts(self.port), name)
        except BaseException:
            self.stop()
            raise

    def _command(self):
        if self.server == "channels":
            return [
                sys.executable,
                "-m",
                "daphne",
                "-b",
                "127.0.0.1",
                "-p",
                self.port,
                "project.asgi:application",
            ]
        # --insecure serves static files. The test starts a gateway of its own.
        return [
            sys.executable,
            "manage.py",
            "runserver",
            "--noreload",
            "--insecure",
            "--no-gateway",
            f"127.0.0.1:{self.port}",
        ]

    def _gateway(self, directory):
        file = directory / "settings.toml"
        text = (SITE / "settings.toml").read_text().replace('layer = "core"', f'layer = "{self.layer}"')
        file.write_text(text + READY)
        return Gateway(file=file, redis__url=f"{self.redis.url}/0")

    def environment(self):
        return clean_environment(**self.variables, PYTHONPATH=os.pathsep.join(map(str, (SITE, PACKAGE))))

    def _start(self, process):
        self.started.append(process)
        return process

    def wait_for_subscriber(self, channel):
        with redis.Redis(port=self.redis.port) as client:
            until(lambda: client.pubsub_numsub(channel)[0][1], 1, f"subscribers of {channel}", deadline=30)

    def manage(self, *words):
        """Runs a management command of the site in a process of its own, as a task does."""
        done = subprocess.run(
            [sys.executable, "manage.py", *words],
            cwd=SITE,
            env=self.environment(),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=60,
            check=False,
        )
        assert done.returncode == 0, done.stdout

    def stop(self):
        for process in reversed(self.started):
            process.stop()


CHANNELS = ["channels-core", "channels-pubsub"]
GATEWAY = ["gateway-pubsub", "gateway-core"]


@pytest.fixture(scope="module", params=CHANNELS + GATEWAY)
def form(request, tmp_path_factory):
    """The site in each form, once for all tests of a module."""
    form = Form(request.param, tmp_path_factory.mktemp(request.param))
    yield form
    form.stop()
