"""Prometheus accepts the shipped files, and finds in a gateway all that its alerts and the dashboard ask for."""

import math
import re

import pytest
from prometheus import CONFIG, DASHBOARD, FILES, RULES, Prometheus, expressions_of_rules, panels, promtool

from harness import Gateway, free_port, until

TESTS = FILES.parents[2] / "tests" / "monitoring" / "alerts.test.yml"
DOCS = FILES.parents[1]
NAMES = re.compile(r"\b(?:ws4redis|process)_\w+")
LONG = 30
"""Seconds for some scrapes."""


def test_promtool_accepts_the_files():
    promtool("check", "config", CONFIG)
    promtool("check", "rules", "--lint-fatal", RULES)


def test_each_alert_fires_in_its_trouble_and_no_other_one():
    promtool("test", "rules", TESTS)
    tested = re.findall(r"(?m)^  - name: (\w+)$", TESTS.read_text())
    assert tested == list(expressions_of_rules())


def test_the_document_names_each_alert():
    rows = re.findall(r"(?m)^\| `(Ws4redis\w+)` \| (\w+) \|", (DOCS / "deploy.md").read_text())
    alerts = re.findall(r"(?ms)^ *- alert: (\w+)\n.*?^ *severity: (\w+)$", RULES.read_text())
    assert rows == alerts and [name for name, _ in alerts] == list(expressions_of_rules())


def documented():
    """Returns the documented metrics."""
    return set(re.findall(rf"(?m)^\| `({NAMES.pattern})` \|", (DOCS / "metrics.md").read_text()))


def test_the_dashboard_shows_each_metric():
    shown = {re.sub("_(bucket|sum|count)$", "", name) for panel in queries() for name in NAMES.findall(panel.values[1])}
    assert shown == documented()


def queries():
    """Yields each query of the dashboard with its panel's title, as Grafana would send it."""
    variables = {"$job": "ws4redis", "$instance": ".*", "$__rate_interval": "5m"}
    for panel in panels():
        for target in panel["targets"]:
            text = re.sub(r"\$\w+", lambda found: variables[found[0]], target["expr"])
            yield pytest.param(panel["title"], text, id=f"{panel['title']}: {target['legendFormat']}")


@pytest.mark.parametrize(("title", "query"), queries())
def test_each_query_of_the_dashboard_finds_something(prometheus, traffic, title, query):
    def has_figures(found):
        # Nothing has called the callback, so it has no quantile.
        return bool(found) and ("callback" in query or all(math.isfinite(value) for _, value in found))

    until(lambda: prometheus.query(query), has_figures, f"{title}: {query}", LONG)


def test_the_variables_of_the_dashboard_find_the_gateway(prometheus, traffic, admin):
    assert "label_values(ws4redis_build_info" in DASHBOARD.read_text()
    until(lambda: [labels for labels, _ in prometheus.query("ws4redis_build_info")], bool, "the build", LONG)
    [(labels, value)] = prometheus.query("ws4redis_build_info")
    assert (labels["job"], labels["instance"], value) == ("ws4redis", admin, 1)


def test_prometheus_shows_what_a_client_did(prometheus, traffic):
    for query, expected in {
        'ws4redis_connections{dialect="relay", form="websocket"}': 1,
        "ws4redis_received_messages_total": 4,
        "ws4redis_acknowledged_publications_total": 4,
        "min(ws4redis_redis_up)": 1,
    }.items():
        until(lambda query=query: [value for _, value in prometheus.query(query)], [expected], query, LONG)


def test_the_rules_of_a_running_prometheus_are_healthy_and_quiet(prometheus, traffic):
    def rules():
        return [rule for group in prometheus.api("rules")["groups"] for rule in group["rules"]]

    until(lambda: {rule["health"] for rule in rules()}, {"ok"}, "all rules are evaluated", LONG)
    assert [rule["name"] for rule in rules()] == list(expressions_of_rules())
    assert [rule["name"] for rule in rules() if rule["state"] != "inactive"] == []
    named = {name for rule in rules() for name in NAMES.findall(rule["query"])}
    there = set(prometheus.api("label/__name__/values"))
    assert named - there == set()


def test_a_gateway_on_another_machine_is_scraped_with_its_token(store, tmp_path):
    token = "0123456789abcdef0123456789abcdef"
    (tmp_path / "token").write_text(token)
    port = free_port()
    gateway = Gateway(redis__url=store.url, admin__listen=f"0.0.0.0:{port}", admin__token=token)

    def with_token(text):
        text = text.replace("    # authorization:", "    authorization:").replace("    #   credentials", "      credentials")
        assert "      credentials_file: /etc/prometheus/ws4redis.token\n" in text
        return text.replace("/etc/prometheus/ws4redis.token", str(tmp_path / "token"))

    server = None
    try:
        server = Prometheus(tmp_path, f"127.0.0.1:{port}", with_token)
        until(lambda: [value for _, value in server.query("up")], [1], "a scrape with the token", LONG)
        # Without it the gateway refuses.
        (tmp_path / "token").write_text("wrong" * 8)
        until(lambda: [value for _, value in server.query("up")], [0], "a scrape with a wrong token", LONG)
    finally:
        for process in filter(None, (server, gateway)):
            process.stop()


def test_an_alert_is_pending_while_redis_is_away(store, prometheus, traffic):
    """The last test: it stops Redis."""
    store.process.terminate()
    names = 'ALERTS{alertname="Ws4redisRedisDisconnected", alertstate="pending"}'
    uses = until(lambda: {labels["use"] for labels, _ in prometheus.query(names)}, bool, "the alert", LONG)
    assert uses <= {"messages", "sessions"}
