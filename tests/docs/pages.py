"""Pages in Chromium, driven by pages.mjs."""

import itertools
import json
import pathlib
import queue
import subprocess
import threading
import time
from urllib.parse import urljoin

from harness import DEADLINE, clean_environment

HERE = pathlib.Path(__file__).parent


class Chromium:
    """One browser for all pages of a run."""

    def __init__(self):
        self.process = subprocess.Popen(
            ["node", HERE / "pages.mjs"],
            env=clean_environment(),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.ids = itertools.count(1)
        self.lines = {}
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self):
        for line in self.process.stdout:
            # The driver's last line counts checks, which do not apply here.
            if line.startswith("{"):
                message = json.loads(line)
                self.lines[message["id"]].put(message)

    def open(self, url, cookies=()):
        return Page(self, url, cookies)

    def stop(self):
        self.process.stdin.close()
        try:
            self.process.wait(DEADLINE)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait(DEADLINE)
        self.process.stdout.close()


class Page:
    """A page, and the texts that it has printed by console.log or as errors."""

    def __init__(self, chromium, url, cookies):
        self.chromium = chromium
        self.id = next(chromium.ids)
        self.lines = chromium.lines[self.id] = queue.Queue()
        self.printed = []
        # Otherwise their path would be that of the page.
        site = urljoin(url, "/")
        cookies = [{"name": name, "value": value, "url": site} for name, value in cookies]
        self._command(open=url, cookies=cookies)

    def _command(self, **command):
        self.chromium.process.stdin.write(json.dumps({"id": self.id} | command) + "\n")
        self.chromium.process.stdin.flush()
        # The first command waits for the browser's start.
        end = time.monotonic() + 3 * DEADLINE
        while True:
            line = self._next(end, command)
            if "printed" in line:
                self.printed.append(line["printed"])
                continue
            assert "failed" not in line, line["failed"]
            return line["done"]

    def _next(self, end, what):
        try:
            return self.lines.get(timeout=max(end - time.monotonic(), 0.001))
        except queue.Empty:
            raise AssertionError(f"no {what!r} in time; printed: {self.printed[-20:]}") from None

    def run(self, code):
        """Runs the body of an async function; returns its value."""
        return self._command(evaluate=code)

    def expect(self, text):
        """Waits until the page has printed this text."""
        end = time.monotonic() + DEADLINE
        while text not in self.printed:
            self.printed.append(self._next(end, text)["printed"])

    def close(self):
        self._command(close=True)
