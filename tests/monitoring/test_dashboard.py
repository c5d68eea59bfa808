"""Grafana knows each key of the dashboard: the models of Grafana's own SDK drop keys that they do not know."""

import json

from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.cog.plugins import register_default_plugins
from grafana_foundation_sdk.models.dashboard import Dashboard
from prometheus import DASHBOARD, panels

register_default_plugins()


def decoded(dashboard):
    """Returns what Grafana's models make of a dashboard, as JSON."""
    return json.loads(JSONEncoder().encode(Dashboard.from_json(dashboard)))


def lost(before, after, path=""):
    """Yields the paths of values that differ; defaults may have been added."""
    if isinstance(before, dict) and isinstance(after, dict):
        for key, value in before.items():
            yield from lost(value, after.get(key), f"{path}/{key}")
    elif isinstance(before, list) and isinstance(after, list) and len(before) == len(after):
        for index, (one, other) in enumerate(zip(before, after, strict=True)):
            yield from lost(one, other, f"{path}/{index}")
    elif before != after:
        yield path


def test_grafana_knows_each_key():
    dashboard = json.loads(DASHBOARD.read_text())
    assert list(lost(dashboard, decoded(dashboard))) == []


def test_an_unknown_key_is_noticed():
    dashboard = json.loads(DASHBOARD.read_text())
    panel = next(panel for panel in dashboard["panels"] if panel["type"] == "timeseries")
    panel["options"]["legends"] = {}
    panel["targets"][0]["expression"] = "up"
    changed = [path.split("/", 3)[3] for path in lost(dashboard, decoded(dashboard))]
    assert sorted(changed) == ["options/legends", "targets/0/expression"]


def test_panels_have_ids_titles_and_places_of_their_own():
    dashboard = json.loads(DASHBOARD.read_text())
    ids = [panel["id"] for panel in dashboard["panels"]]
    assert len(set(ids)) == len(ids)
    assert all(panel["title"] and panel["description"] for panel in panels())
    cells = [
        (x, y)
        for place in (panel["gridPos"] for panel in dashboard["panels"])
        for x in range(place["x"], place["x"] + place["w"])
        for y in range(place["y"], place["y"] + place["h"])
    ]
    assert len(set(cells)) == len(cells) and max(x for x, _ in cells) < 24
