"""A real Prometheus with the files of docs/deploy/prometheus; only addresses, paths and times are replaced."""

import json
import pathlib
import re
import subprocess
import urllib.error
import urllib.parse
import urllib.request

from harness import DEADLINE, Process, free_port

FILES = pathlib.Path(__file__).parents[2] / "docs" / "deploy" / "prometheus"
CONFIG = FILES / "prometheus.yml"
RULES = FILES / "ws4redis.rules.yml"
DASHBOARD = FILES / "dashboard.json"


def promtool(*words):
    """Runs promtool; fails with its output unless it succeeds."""
    done = subprocess.run(["promtool", *map(str, words)], capture_output=True, text=True, timeout=DEADLINE * 3)
    assert done.returncode == 0, done.stdout + done.stderr


def expressions_of_rules():
    """Returns the expression of each alert by its name."""
    found = re.findall(r"(?ms)^ *- alert: (\w+)\n *expr: (.*?)\n *(?:for|labels):", RULES.read_text())
    return {name: expression.removeprefix("|").strip() for name, expression in found}


def panels():
    """Returns the panels of the dashboard that show something, also those within closed rows."""
    top = json.loads(DASHBOARD.read_text())["panels"]
    all_panels = [panel for row in top for panel in (row, *row.get("panels", []))]
    return [panel for panel in all_panels if panel["type"] != "row"]


class Prometheus(Process):
    """Scrapes one gateway every second with the shipped configuration and alert rules."""

    def __init__(self, folder, gateway, lines=lambda text: text):
        self.port = free_port()
        text = lines(CONFIG.read_text())
        for old, new in (("127.0.0.1:9000", gateway), ("15s", "1s"), (RULES.name, str(RULES))):
            assert old in text, f"{CONFIG.name} does not have {old}"
            text = text.replace(old, new)
        config = folder / "prometheus.yml"
        config.write_text(text)
        listen = f"--web.listen-address=127.0.0.1:{self.port}"
        data = "--storage.tsdb.path={directory}/data"
        super().__init__(["prometheus", f"--config.file={config}", data, listen, "--log.level=warn"])
        self.wait_until(lambda: self.api("query", query="1"), "prometheus", DEADLINE * 3)

    def api(self, path, **parameters):
        """Returns the data of an answer; fails with Prometheus' own words."""
        url = f"http://127.0.0.1:{self.port}/api/v1/{path}?{urllib.parse.urlencode(parameters)}"
        try:
            with urllib.request.urlopen(url, timeout=DEADLINE) as answer:
                return json.load(answer)["data"]
        except urllib.error.HTTPError as error:
            if error.code == 503:
                raise ConnectionError from error
            raise AssertionError(f"{parameters}: {json.load(error)['error']}") from None

    def query(self, expression):
        """Returns the series of an expression as pairs of labels and value."""
        result = self.api("query", query=expression)["result"]
        return [(series["metric"], float(series["value"][1])) for series in result]
