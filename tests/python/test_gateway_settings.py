"""The gateway's settings as derived from Django's, and the file that `ws4redis_settings` prints."""

import os
import stat
import sys

import pytest
from django.conf import settings
from django.core import checks
from django.core.management import CommandError, call_command
from django.test import override_settings

from ws4redis import binary, gateway_settings, server_groups, session_engine
from ws4redis.redis_urls import is_same_database, redis_url

REDIS_CACHE = "django.core.cache.backends.redis.RedisCache"
DJANGO_REDIS = "django_redis.cache.RedisCache"
# All of them are secrets, and none may be printed unasked.
SECRETS = {
    "SECRET_KEY": "the-secret-key",
    "SECRET_KEY_FALLBACKS": ["an-old-secret-key"],
    "SESSION_ENGINE": "redis_sessions.session",
    "SESSION_REDIS": {"host": "sessions", "password": "the-session-password"},
    "WS4REDIS_CONNECTION": {"host": "localhost", "password": "the-password"},
    "WS4REDIS_CALLBACK_SECRET": "the-callback-secret",
    "WS4REDIS_GATEWAY": {
        "auth": {"callback_url": "http://127.0.0.1:8001/x/"},
        "admin.token": "the-admin-token",
    },
}
WORDS = [
    "the-secret-key",
    "an-old-secret-key",
    "the-session-password",
    "the-password",
    "the-callback-secret",
    "the-admin-token",
]


def parsed(text):
    """Returns the values of a settings file; skips the test below Python 3.11, which has no parser."""
    return pytest.importorskip("tomllib").loads(text)


def derived(**settings):
    """Returns the derived values with these settings."""
    with override_settings(**settings):
        return {name: setting.value for name, setting in gateway_settings.derive().values.items()}


def printed(capsys, *options, **settings):
    with override_settings(**settings):
        call_command("ws4redis_settings", *options)
    return capsys.readouterr().out


def test_every_setting_of_django_that_the_gateway_needs_is_derived():
    values = derived(
        WEBSOCKET_URL="/sockets/",
        WS4REDIS_PREFIX="demo",
        WS4REDIS_HEARTBEAT=None,
        WS4REDIS_EXPIRE=None,
        WS4REDIS_CONNECTION={"host": "h", "port": 6380, "db": 2},
        WS4REDIS_HISTORY=["chat-*"],
        SESSION_COOKIE_NAME="sid",
        CACHES={
            "default": {
                "BACKEND": REDIS_CACHE,
                "LOCATION": "redis://h:6380/2",
                "KEY_PREFIX": "my",
                "VERSION": 3,
            }
        },
        ALLOWED_HOSTS=["example.com", ".example.org"],
        CSRF_TRUSTED_ORIGINS=["https://*.example.com"],
        WS4REDIS_EVENTS="list:events",
    )
    assert values == {
        "websocket_url": "/sockets/",
        "prefix": "demo",
        "heartbeat": "",
        "expire": 0,
        "redis.url": "redis://h:6380/2",
        "history": [{"facility": ["chat-*"], "messages": 100, "seconds": 3600}],
        "session.cookie": "sid",
        "session.keys": ["cache my:3:django.contrib.sessions.cache{key}"],
        "origin.allowed_hosts": ["example.com", ".example.org"],
        "origin.allowed": ["https://*.example.com"],
        "events.to": "list:events",
    }


def test_a_star_in_allowed_hosts_admits_no_foreign_pages():
    assert "origin.allowed_hosts" not in derived(ALLOWED_HOSTS=["*"])
    assert "origin.allowed_hosts" not in derived(ALLOWED_HOSTS=["example.com", "*"])


@pytest.mark.parametrize(
    ("backend", "options", "url"),
    [
        (REDIS_CACHE, {}, "redis://s/1"),
        (REDIS_CACHE, {"password": "a/b", "username": "u"}, "redis://u:a%2Fb@s/1"),
        (REDIS_CACHE, {"db": 5}, "redis://s/1"),
        (DJANGO_REDIS, {"PASSWORD": "p"}, "redis://:p@s/1"),
        (DJANGO_REDIS, {"CONNECTION_POOL_KWARGS": {"password": "p"}}, "redis://:p@s/1"),
    ],
)
def test_options_of_the_cache_belong_to_the_url_of_the_sessions(backend, options, url):
    caches = {"default": {"BACKEND": backend, "LOCATION": "redis://s/1", "OPTIONS": options}}
    assert derived(CACHES=caches)["session.redis_url"] == url


SENTINELS = [("a", 26379), ("b", 26380), ("::1", 26379)]


def sentinel_cache(location="redis://mymaster/1", **options):
    """Returns CACHES as the documentation of django-redis has it."""
    client = "django_redis.client.SentinelClient"
    options = {"CLIENT_CLASS": client, "SENTINELS": SENTINELS, "CONNECTION_POOL_KWARGS": None, **options}
    return {"default": {"BACKEND": DJANGO_REDIS, "LOCATION": location, "OPTIONS": options}}


@pytest.mark.parametrize(
    ("location", "options", "url"),
    [
        (
            "redis://mymaster/1",
            {},
            "redis-sentinel://a:26379/1?sentinelServiceName=mymaster&node=b%3A26380&node=%5B%3A%3A1%5D%3A26379",
        ),
        (
            "redis://u:ge%40heim@mymaster?db=2",
            {"SENTINELS": [("a", 1)], "SENTINEL_KWARGS": {"username": "s", "password": "a&b"}},
            "redis-sentinel://u:ge%40heim@a:1/2?sentinelServiceName=mymaster&sentinelUsername=s&sentinelPassword=a%26b",
        ),
        (
            "rediss://mymaster/0",
            {"SENTINELS": [["a", "1"]], "PASSWORD": "p", "SENTINEL_KWARGS": {"ssl": True}},
            "rediss-sentinel://:p@a:1/0?sentinelServiceName=mymaster",
        ),
        (
            ["redis://mymaster/3?is_master=0", "redis://mymaster/4?is_master=1"],
            {"SENTINELS": [("a", 1)], "CONNECTION_POOL_KWARGS": {"password": "p"}},
            "redis-sentinel://:p@a:1/4?sentinelServiceName=mymaster",
        ),
    ],
)
def test_sentinels_of_django_redis_belong_to_the_url_of_the_sessions(location, options, url):
    found = derived(CACHES=sentinel_cache(location, **options))["session.redis_url"]
    assert found == url
    assert server_groups.parse(found).service == "mymaster"


@pytest.mark.parametrize(
    ("location", "options", "reason"),
    [
        ("redis:///1", {}, "LOCATION does not name a service of SENTINELS"),
        ("redis://mymaster/1", {"SENTINELS": ["a:26379"]}, "SENTINELS is no list of (host, port)"),
        ("rediss://mymaster/1", {}, "TLS is for both in the gateway, or for neither"),
    ],
)
def test_sentinels_that_the_gateway_cannot_use_are_explained(location, options, reason):
    with override_settings(CACHES=sentinel_cache(location, **options)):
        found = gateway_settings.derive()
    assert "session.redis_url" not in found.values
    (note,) = found.notes
    assert reason in note
    assert "set session.redis_url" in note


def test_a_cache_on_several_servers_is_no_place_for_sessions():
    cache = sentinel_cache(["redis://a/0", "redis://b/0"], CLIENT_CLASS="django_redis.client.ShardClient")
    with override_settings(CACHES=cache):
        assert "spreads its keys over several servers" in session_engine.describe().obstacle


@pytest.mark.parametrize(
    ("location", "url"),
    [("h:6380", "redis://:p@h:6380/3"), ("/run/r.sock", "unix://:p@/run/r.sock?db=3")],
)
def test_a_location_without_a_scheme_becomes_a_url(location, url):
    cache = {"LOCATION": location, "OPTIONS": {"DB": 3, "PASSWORD": "p"}}
    assert session_engine._url_of_cache(cache) == url


@pytest.mark.parametrize(
    ("arguments", "url", "tls"),
    [
        ({}, "redis://localhost:6379/0", {}),
        ({"host": "::1"}, "redis://[::1]:6379/0", {}),
        ({"unix_socket_path": "/run/r.sock", "db": 1}, "unix:///run/r.sock?db=1", {}),
        ({"unix_socket_path": "/r", "password": "p"}, "unix://:p@/r", {}),
        ({"url": "redis://h", "db": 3}, "redis://h/3", {}),
        ({"url": "redis://h/2", "db": 3}, "redis://h/2", {}),
        (
            {"url": "rediss://h?ssl_cert_reqs=none&db=1"},
            "rediss://h?db=1",
            {"redis.verify_certificate": False},
        ),
        ({"url": "rediss://h", "ssl_cert_reqs": None}, "rediss://h", {"redis.verify_certificate": False}),
        ({"host": "h", "ssl": True, "ssl_ca_certs": "/ca"}, "rediss://h:6379/0", {"redis.ca_file": "/ca"}),
        ({"url": "redis://h?health_check_interval=3"}, "redis://h", {}),
        (
            {"url": "redis-sentinel://a:1/0?sentinelServiceName=m&node=b:2&node=c:3"},
            "redis-sentinel://a:1/0?sentinelServiceName=m&node=b%3A2&node=c%3A3",
            {},
        ),
    ],
)
def test_arguments_of_redis_py_become_a_url_of_the_gateway(arguments, url, tls):
    assert redis_url(arguments) == (url, tls)


def test_one_database_has_several_names():
    assert is_same_database("redis://localhost:6379/0", "redis://:p@127.0.0.1")
    assert not is_same_database("redis://localhost/0", "redis://localhost/1")
    assert not is_same_database("redis://localhost", "redis://h")


def test_settings_of_the_site_for_the_gateway_win_and_may_be_nested():
    values = derived(
        WS4REDIS_GATEWAY={
            "anonymous_publish": False,
            "session": {"cookie": "other"},
            "socketio.redis_manager": {"channels": ["a"]},
            "auth": {"callback_url": None},
        }
    )
    assert "auth.callback_url" not in values, "a variable that is not set"
    assert values["anonymous_publish"] is False
    assert values["session.cookie"] == "other"
    assert values["socketio.redis_manager.channels"] == ["a"]
    with pytest.raises(ValueError, match="must be a dict"):
        derived(WS4REDIS_GATEWAY=["a"])


def test_an_app_may_be_a_single_module(monkeypatch, tmp_path):
    (tmp_path / "single_module_app.py").write_text("")
    monkeypatch.syspath_prepend(tmp_path)
    with override_settings(INSTALLED_APPS=[*settings.INSTALLED_APPS, "single_module_app"]):
        assert "websocket_url" in derived()


def test_a_channel_layer_is_derived_for_sites_that_turn_it_on():
    layers = {
        "default": {
            "BACKEND": "channels_redis.core.RedisChannelLayer",
            "CONFIG": {"hosts": [("h", 1), {"address": "redis://i", "db": 2}], "prefix": "p"},
        }
    }
    assert "channels.layer" not in derived(CHANNEL_LAYERS=layers)
    values = derived(CHANNEL_LAYERS=layers, WS4REDIS_GATEWAY={"channels": {"enabled": True}})
    assert values["channels.layer"] == "core"
    assert values["channels.prefix"] == "p"
    assert values["channels.hosts"] == ["redis://h:1/0", "redis://i/2"]


def test_the_printed_file_is_toml_with_the_source_of_each_value(capsys):
    rules = [
        {"facility": ["news"], "anonymous": ["subscribe-broadcast"], "groups": {"red team": ["publish-*"]}}
    ]
    text = printed(
        capsys, WS4REDIS_PREFIX='quo"te\\', WS4REDIS_HISTORY=["a"], WS4REDIS_GATEWAY={"access": rules}
    )
    found = parsed(text)
    assert found["prefix"] == 'quo"te\\'
    assert found["session"]["cookie"] == "sessionid"
    assert found["access"] == rules
    assert found["history"] == [{"facility": ["a"], "messages": 100, "seconds": 3600}]
    assert "# SESSION_COOKIE_NAME" in text


@pytest.mark.parametrize(
    ("header", "is_shown"), [("Host: www.example.com", True), ("Authorization: Basic YQ==", False)]
)
def test_headers_of_the_callback_are_printed_unless_they_identify_the_gateway(capsys, header, is_shown):
    auth = {"callback_url": "http://localhost/", "callback_headers": [header]}
    assert (header in printed(capsys, WS4REDIS_GATEWAY={"auth": auth})) is is_shown


def test_secrets_are_printed_only_if_asked_for(capsys):
    text = printed(capsys, **SECRETS)
    parsed(text)
    assert [word for word in WORDS if word in text] == []
    assert 'secret_key_file = "/etc/ws4redis/secret_key"' in text
    assert "WS4REDIS_REDIS__URL. It is redis://***@localhost:6379/0" in text
    found = parsed(printed(capsys, "--secrets", **SECRETS))
    assert found["session"]["secret_key_fallbacks"] == ["an-old-secret-key"]
    assert found["session"]["redis_url"] == "redis://:the-session-password@sessions:6379/0"
    assert found["auth"]["callback_secret"] == "the-callback-secret"


def test_a_written_file_has_the_secrets_and_only_its_owner_reads_it(capsys, tmp_path):
    path = tmp_path / "settings.toml"
    path.write_text("old")
    path.chmod(0o644)
    output = printed(capsys, "--output", str(path), **SECRETS)
    assert [word for word in WORDS if word in output] == []
    assert [word for word in WORDS if word not in path.read_text()] == []
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    with pytest.raises(CommandError, match="cannot be written"):
        printed(capsys, "--output", "/nonexistent/settings.toml")


def test_a_note_says_how_users_are_identified_where_sessions_are_not_in_redis(capsys):
    db = {"SESSION_ENGINE": "django.contrib.sessions.backends.db"}
    text = printed(capsys, **db)
    assert "auth.callback_url" in text
    assert "keys" not in parsed(text)["session"]
    url = {"auth": {"callback_url": "http://127.0.0.1:1/"}}
    assert "cannot identify" not in printed(capsys, **db, WS4REDIS_GATEWAY=url)


def test_the_binary_is_the_chosen_one_or_next_to_python_or_on_path(monkeypatch, tmp_path):
    for folder in ("chosen", "python", "path"):
        (tmp_path / folder).mkdir()
        program = tmp_path / folder / "ws4redis"
        program.write_text("#!/bin/sh\necho ws4redis 9.9\n")
        program.chmod(0o755)
    monkeypatch.setattr("sys.executable", str(tmp_path / "python" / "python3"))
    monkeypatch.setattr("sysconfig.get_path", lambda name: str(tmp_path / "none"))
    monkeypatch.setenv("PATH", f"{tmp_path / 'path'}:{os.environ['PATH']}")
    with override_settings(WS4REDIS_BINARY=tmp_path / "chosen" / "ws4redis"):
        assert binary.find() == tmp_path / "chosen" / "ws4redis"
    assert binary.find() == tmp_path / "python" / "ws4redis"
    assert binary.version_of(binary.find()) == "9.9"
    (tmp_path / "python" / "ws4redis").unlink()
    assert binary.find() == tmp_path / "path" / "ws4redis"
    with (
        override_settings(WS4REDIS_BINARY=tmp_path),
        pytest.raises(binary.BinaryNotFound, match="no program"),
    ):
        binary.find()
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(binary.BinaryNotFound, match="Install a wheel"):
        binary.find()


def findings(**settings):
    with override_settings(**settings):
        found = checks.run_checks(tags=["ws4redis"])
    return [message.id.removeprefix("ws4redis.") for message in found]


def test_the_checks_report_a_hidden_runserver_and_unusable_settings_of_the_gateway():
    # In the test site, staticfiles is above.
    assert findings(DEBUG=True) == ["W020"]
    with override_settings(INSTALLED_APPS=["ws4redis", "django.contrib.auth", "django.contrib.contenttypes"]):
        assert findings(DEBUG=True) == []
    assert findings(WS4REDIS_GATEWAY=["a"]) == ["E020"]
    assert findings(WS4REDIS_BINARY=5) == ["E021"]
    assert findings(WS4REDIS_BINARY="/usr/local/bin/ws4redis") == []


@pytest.fixture
def app_with_runserver(tmp_path, monkeypatch):
    """Returns a function that makes an app with this module as its command `runserver`."""
    monkeypatch.syspath_prepend(str(tmp_path))
    names = []

    def make(name, code):
        names.append(name)
        folder = tmp_path / name / "management" / "commands"
        folder.mkdir(parents=True)
        for one in (folder, folder.parent, folder.parent.parent):
            (one / "__init__.py").touch()
        (folder / "runserver.py").write_text(code)
        return name

    yield make
    for module in [module for module in sys.modules if module.partition(".")[0] in names]:
        del sys.modules[module]


OTHER_RUNSERVER = "from django.core.management.commands.runserver import Command"
# As WhiteNoise does it.
NEXT_RUNSERVER = (
    "from ws4redis.management.commands.runserver import Command as Next\nclass Command(Next): pass"
)


@pytest.mark.parametrize(
    ("name", "code", "hint"),
    [
        ("daphne", "raise RuntimeError('not imported')", "Remove 'daphne' if nothing else needs it"),
        ("other", OTHER_RUNSERVER, "Move 'ws4redis' above 'other'."),
        ("wrapping", NEXT_RUNSERVER, None),
        ("broken", "raise RuntimeError", None),
    ],
)
def test_each_app_whose_runserver_hides_the_one_of_the_package_is_named(app_with_runserver, name, code, hint):
    others = ["django.contrib.auth", "django.contrib.contenttypes"]
    name = app_with_runserver(name, code)
    with override_settings(DEBUG=True, INSTALLED_APPS=[name, "ws4redis", *others]):
        found = [message for message in checks.run_checks(tags=["ws4redis"]) if message.id == "ws4redis.W020"]
        assert [message.hint.startswith(hint) for message in found if hint] == [True] * bool(hint)
        assert bool(found) == bool(hint)
    with override_settings(DEBUG=True, INSTALLED_APPS=["ws4redis", name, *others]):
        assert "W020" not in findings()


def test_channels_without_a_runserver_hides_none():
    others = ["django.contrib.auth", "django.contrib.contenttypes"]
    with override_settings(DEBUG=True, INSTALLED_APPS=["channels", "ws4redis", *others]):
        assert "W020" not in findings()


def test_settings_that_do_not_fit_leave_no_descriptor():
    before = os.listdir("/dev/fd")
    with pytest.raises(ValueError, match="too long"):
        binary.settings_pipe("x" * (1 << 21))
    assert os.listdir("/dev/fd") == before


def test_a_binary_that_does_not_run_leaves_no_descriptor(tmp_path):
    program = tmp_path / "ws4redis"
    program.write_text("#!/nonexistent/interpreter\n")
    program.chmod(0o755)
    before = os.listdir("/dev/fd")
    with (
        override_settings(WS4REDIS_BINARY=str(program)),
        pytest.raises(CommandError, match="does not run here"),
    ):
        call_command("ws4redis")
    assert os.listdir("/dev/fd") == before


def test_a_file_that_cannot_be_replaced_leaves_no_secrets(tmp_path):
    place = tmp_path / "settings.toml"
    place.mkdir()
    with pytest.raises(CommandError, match="cannot be written"):
        call_command("ws4redis_settings", output=str(place))
    assert list(tmp_path.iterdir()) == [place]
