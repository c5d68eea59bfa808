"""The gateway's settings under `manage.py runserver`."""

import socket

import pytest
import redis
from django.test import override_settings
from stores import UnixRedisServer

from ws4redis import development, gateway_settings


@pytest.fixture
def port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def derived(port):
    """Returns the derived settings and the description of the store, with a Redis at this port."""
    with override_settings(WS4REDIS_CONNECTION={"host": "localhost", "port": port}):
        return development.settings_for("127.0.0.1", 8000, "secret")


def test_an_embedded_store_replaces_a_redis_that_does_not_run(port, monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    settings, store = derived(port)
    assert settings.get("embedded.enabled") == "on"
    assert store.startswith(f"no Redis at redis://localhost:{port}/0")


def test_a_redis_that_asks_for_a_password_runs(port):
    server = UnixRedisServer(port)
    try:
        server.client.config_set("requirepass", "other")
        settings, store = derived(port)
    finally:
        server.stop()
    assert settings.get("embedded.enabled") is None
    assert store == f"Redis at redis://localhost:{port}/0"


def test_the_store_of_another_project_is_refused(port, monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    info = {"embedded_store": "ws4redis 0.1.0"}
    monkeypatch.setattr(redis.Redis, "info", lambda self, *names: info)
    for owner in ("", development.snapshot_file().name):
        info["embedded_snapshot"] = owner
        assert derived(port)[0].get("embedded.enabled") == "on"
    info["embedded_snapshot"] = "other-0123456789abcdef.sessions"
    with pytest.raises(ValueError, match=r"another project \(other-0123456789abcdef.sessions\)"):
        derived(port)


def test_a_redis_behind_a_unix_socket_answers(store):
    settings, described = development._with_store(gateway_settings.derive())
    assert settings.get("embedded.enabled") is None
    assert described.startswith("Redis at unix:")
    assert "does not answer" not in described


def test_the_name_of_the_store_has_no_character_that_info_would_be_split_at(monkeypatch, tmp_path):
    folder = tmp_path / "a,b=c d"
    folder.mkdir()
    monkeypatch.setattr(development, "_project_folder", lambda: folder)
    name = development.snapshot_file().name
    assert name.startswith("a_b_c_d-"), name
