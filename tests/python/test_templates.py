"""The context processor, the settings module and the static file."""

import re
from pathlib import Path

import pytest
from django.contrib.staticfiles import finders
from django.test import Client, RequestFactory, override_settings

from ws4redis import context_processors, settings
from ws4redis.context_processors import default

ROOT = Path(__file__).resolve().parents[2]


def test_pages_get_the_address_and_the_heartbeat():
    with override_settings(ALLOWED_HOSTS=["example.com"]):
        context = default(RequestFactory().get("/", HTTP_HOST="example.com:99"))
    assert context == {"WEBSOCKET_URI": "ws://example.com:99/ws/", "WS4REDIS_HEARTBEAT": '"--heartbeat--"'}
    with override_settings(ALLOWED_HOSTS=["example.com"], WS4REDIS_HEARTBEAT=None, WEBSOCKET_URL="/live/"):
        context = default(RequestFactory().get("/", secure=True, HTTP_HOST="example.com"))
    assert context == {"WEBSOCKET_URI": "wss://example.com/live/", "WS4REDIS_HEARTBEAT": "null"}


def test_https_that_django_does_not_know_of_is_logged_once(caplog):
    context_processors._warn_of_lost_https.cache_clear()
    with override_settings(SECURE_PROXY_SSL_HEADER=None):
        for forwarded in ("http", "https", "https"):
            assert default(RequestFactory().get("/", HTTP_X_FORWARDED_PROTO=forwarded))[
                "WEBSOCKET_URI"
            ].startswith("ws:")
    assert [record.getMessage().partition(":")[0] for record in caplog.records] == [
        "X-Forwarded-Proto says https, and Django takes the request for http"
    ]
    assert default(RequestFactory().get("/", HTTP_X_FORWARDED_PROTO="https"))["WEBSOCKET_URI"].startswith(
        "wss:"
    )
    assert len(caplog.records) == 1


def test_a_heartbeat_cannot_end_the_script():
    with override_settings(WS4REDIS_HEARTBEAT='</script>"'):
        assert default(RequestFactory().get("/"))["WS4REDIS_HEARTBEAT"] == '"\\u003C/script\\u003E\\""'


def test_the_pages_of_the_site_have_both(people):
    page = Client().get("/chat/").content.decode()
    assert "uri: 'ws://testserver/ws/foobar'" in page
    assert 'heartbeat: "--heartbeat--"' in page
    page = Client().get("/old/chat/").content.decode()
    assert "uri: 'ws://testserver/ws/foobar?subscribe-broadcast&publish-broadcast&echo'" in page
    assert 'heartbeat_msg: "--heartbeat--"' in page


@pytest.mark.parametrize("name", ["ws4redis.js", "ws4redis.mjs"])
def test_the_script_is_the_one_of_the_gateway(name):
    packaged = finders.find(f"js/{name}")
    assert packaged, f"static/js/{name} is not in the package"
    assert (
        Path(packaged).read_bytes() == (ROOT / "static" / name).read_bytes()
    ), f"cp static/{name} python/ws4redis/static/js/"


def test_every_setting_is_documented():
    text = (ROOT / "docs" / "django.md").read_text()
    assert [name for name in settings.DEFAULTS if f"| `{name}` |" not in text] == []


def test_every_check_is_documented():
    source = "".join(path.read_text() for path in (ROOT / "python" / "ws4redis").glob("*.py"))
    numbers = {f"ws4redis.{number}" for number in re.findall(r"""["'.]([EW]0\d\d)["']""", source)}
    table = re.findall(
        r"^\| `(ws4redis\.[EW]0\d\d)` \|", (ROOT / "docs" / "troubleshooting.md").read_text(), re.M
    )
    assert sorted(table) == sorted(numbers)
    assert len(numbers) > 30


def test_settings_are_read_when_they_are_needed():
    assert settings.WS4REDIS_EXPIRE == 3600
    with override_settings(WS4REDIS_EXPIRE=5):
        assert settings.WS4REDIS_EXPIRE == 5
    assert settings.WS4REDIS_GROUPS is None
    assert "WEBSOCKET_URL" in dir(settings)
    with pytest.raises(AttributeError):
        _ = settings.WS4REDIS_NO_SUCH_SETTING
