"""The Django project in `website/` as a process, and browsers of its visitors."""

import base64
import http.cookiejar
import json
import pathlib
import shutil
import sys
import tempfile
import urllib.error
import urllib.request

from harness import DEADLINE, Process, clean_environment, free_port

MANAGE = pathlib.Path(__file__).parent / "website" / "manage.py"


class UpstreamSite(Process):
    """The project in Django's development server."""

    def __init__(self, store, database, **settings):
        self.port = free_port()
        own = pathlib.Path(tempfile.mkdtemp(prefix="ws4redis-site-")) / "db.sqlite3"
        shutil.copy(database, own)
        self.database = own
        variables = {f"SITE_{name.upper()}": value for name, value in settings.items()}
        env = clean_environment(SITE_REDIS_PORT=store.port, SITE_DATABASE=own, **variables)
        command = [sys.executable, MANAGE, "runserver", "--noreload", f"127.0.0.1:{self.port}"]
        super().__init__(command, env=env)
        self.wait_until(lambda: UpstreamBrowser(self).status("/") == 404, "Django")

    def stop(self):
        super().stop()
        shutil.rmtree(self.database.parent, ignore_errors=True)

    def post(self, path, **wanted):
        """Posts as a visitor without cookies."""
        return UpstreamBrowser(self).post(path, **wanted)

    def publish(self, facility, message, **wanted):
        """Publishes to the broadcast by default."""
        if isinstance(message, bytes):
            wanted["base64"] = base64.b64encode(message).decode()
        else:
            wanted["message"] = message
        return self.post("publish", facility=facility, **({"broadcast": True} | wanted))

    def fetch(self, facility, **wanted):
        return UpstreamBrowser(self).fetch(facility, **wanted)


class UpstreamBrowser:
    """A visitor of the site, with cookies."""

    def __init__(self, site):
        self.base = f"http://127.0.0.1:{site.port}"
        self.jar = http.cookiejar.CookieJar()
        self.opener = urllib.request.build_opener(
            urllib.request.ProxyHandler({}), urllib.request.HTTPCookieProcessor(self.jar)
        )

    def get(self, path):
        with self.opener.open(self.base + path, timeout=DEADLINE) as answer:
            return answer.read().decode()

    def status(self, path):
        try:
            self.get(path)
            return 200
        except urllib.error.HTTPError as error:
            return error.code

    def post(self, path, **wanted):
        """Returns the response's JSON; a status other than 200 raises."""
        body = json.dumps(wanted).encode()
        try:
            with self.opener.open(f"{self.base}/{path}", data=body, timeout=DEADLINE) as answer:
                return json.load(answer)
        except urllib.error.HTTPError as error:
            raise AssertionError(f"{path}: {error.code} {error.read()[:2000].decode()}") from None

    def fetch(self, facility, **wanted):
        found = self.post("fetch", facility=facility, **wanted)["found"]
        return found if found is None else base64.b64decode(found)
