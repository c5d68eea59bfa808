"""System checks of what django-websocket-redis leaves behind, and of pages that hear nothing."""

import copy
import sys
from types import ModuleType

import django
import pytest
from django.conf import settings
from django.core import checks
from django.core.exceptions import ImproperlyConfigured
from django.test import override_settings
from django.urls import include, path

from ws4redis import apps, leftovers
from ws4redis.views import IdentityView


def found(**changes):
    """Returns the findings with these settings, by their identifiers."""
    with override_settings(**changes):
        return {one.id.removeprefix("ws4redis."): one for one in checks.run_checks(tags=["ws4redis"])}


# ---- Rules -----------------------------------------------------------------------------------------------------------


class OwnRules(IdentityView):
    def allow(self, request, user, facility, flags):
        return flags


class OwnLogin(IdentityView):
    def identify(self, request, session):
        return None


def urlconf(view):
    """Returns a URLconf with this view below a prefix."""
    module = ModuleType("urls_of_a_test")
    module.urlpatterns = [path("ws4redis/", include(([path("identity/", view.as_view())], "ws4redis")))]
    return module


@pytest.mark.parametrize("name", ["WS4REDIS_ALLOWED_CHANNELS", "WS4REDIS_PROCESS_REQUEST"])
def test_rules_in_python_that_the_gateway_does_not_have_are_an_error(name):
    for value in ("mysite.rules.allow", lambda request, channels: channels):
        assert list(found(**{name: value})) == ["E019"]
    assert found(**{name: None}) == {}


@pytest.mark.parametrize(
    ("name", "view", "lost"),
    [
        ("WS4REDIS_ALLOWED_CHANNELS", OwnRules, False),
        ("WS4REDIS_ALLOWED_CHANNELS", OwnLogin, True),
        ("WS4REDIS_ALLOWED_CHANNELS", IdentityView, True),
        ("WS4REDIS_PROCESS_REQUEST", OwnLogin, False),
        ("WS4REDIS_PROCESS_REQUEST", OwnRules, True),
    ],
)
def test_rules_that_have_become_a_view_are_not_lost(name, view, lost):
    with override_settings(ROOT_URLCONF=urlconf(view)):
        assert list(found(**{name: "a.b", "WS4REDIS_CALLBACK_SECRET": "x" * 16})) == ["E019"] * lost
        # Without a secret the view answers no gateway.
        assert list(found(**{name: "a.b"})) == ["E019"]


@pytest.mark.parametrize(
    ("name", "gateway", "lost"),
    [
        ("WS4REDIS_ALLOWED_CHANNELS", {"access": [{"facility": ["*"], "subscribe": ["user"]}]}, False),
        ("WS4REDIS_ALLOWED_CHANNELS", {"anonymous_publish": False}, False),
        ("WS4REDIS_ALLOWED_CHANNELS", {"heartbeat": "x"}, True),
        ("WS4REDIS_PROCESS_REQUEST", {"auth.jwt.algorithm": "HS256"}, False),
        ("WS4REDIS_PROCESS_REQUEST", {"anonymous_publish": False}, True),
    ],
)
def test_rules_of_the_gateway_replace_those_in_python(name, gateway, lost):
    assert ("E019" in found(**{name: "a.b", "WS4REDIS_GATEWAY": gateway})) == lost


@pytest.mark.parametrize(
    ("name", "text", "has_rules"),
    [
        ("WS4REDIS_ALLOWED_CHANNELS", '[[access]]\nfacility = ["*"]\n', True),
        ("WS4REDIS_ALLOWED_CHANNELS", 'x = 1\naccess = [{ facility = ["*"] }]\n', True),
        ("WS4REDIS_ALLOWED_CHANNELS", "anonymous_publish = false\n", True),
        ("WS4REDIS_ALLOWED_CHANNELS", "# [[access]]\naccess = []\nanonymous_publish = true\n", False),
        ("WS4REDIS_ALLOWED_CHANNELS", '[auth.jwt]\nalgorithm = "HS256"\n', False),
        ("WS4REDIS_PROCESS_REQUEST", '[auth.jwt]\nalgorithm = "HS256"\n', True),
        ("WS4REDIS_PROCESS_REQUEST", '[auth]\ncallback_url = "http://127.0.0.1/"\n', True),
        ("WS4REDIS_PROCESS_REQUEST", '[auth]\ncallback_url = ""\n[auth.jwt]\nalgorithm = ""\n', False),
    ],
)
@pytest.mark.parametrize("place", ["BASE_DIR", "working directory"])
def test_rules_in_a_settings_file_of_the_project_are_named(
    name, text, has_rules, place, tmp_path, monkeypatch
):
    (tmp_path / "settings.toml").write_text(text)
    if place == "working directory":
        monkeypatch.chdir(tmp_path)
    error = found(**{name: "a.b"}, **({"BASE_DIR": tmp_path} if place == "BASE_DIR" else {}))["E019"]
    assert (f"{tmp_path}/settings.toml has rules" in error.msg) == has_rules
    assert ("Copy the rules into WS4REDIS_GATEWAY" in error.hint) == has_rules


# ---- The old package, its copies and its loops -------------------------------------------------------------------------


def test_a_second_package_of_the_same_name_is_reported(monkeypatch):
    monkeypatch.setattr(leftovers, "is_installed", lambda name: name == "django-websocket-redis")
    assert list(found()) == ["E011"]


def test_an_old_package_over_the_files_of_this_one_is_named_at_start(monkeypatch):
    old = ModuleType("ws4redis.settings")
    monkeypatch.setitem(sys.modules, "ws4redis.settings", old)
    import ws4redis

    monkeypatch.setattr(ws4redis, "settings", old)
    with pytest.raises(ImproperlyConfigured, match="django-websocket-redis was installed over this package"):
        apps.WS4RedisConfig("ws4redis", ws4redis).ready()


def test_a_django_that_is_too_old_is_named_at_start(monkeypatch):
    import ws4redis

    monkeypatch.setattr(django, "VERSION", (2, 2, 28))
    with pytest.raises(ImproperlyConfigured, match="Keep django-websocket-redis and change only the server"):
        apps.WS4RedisConfig("ws4redis", ws4redis).ready()


def test_a_server_of_the_old_package_is_reported():
    names = found(WSGI_APPLICATION="ws4redis.django_runserver.application")
    assert list(names) == ["W010"]
    assert "get_wsgi_application" not in names["W010"].msg


@pytest.mark.parametrize(
    ("line", "module"),
    [
        ("from ws4redis.uwsgi_runserver import uWSGIWebsocketServer", "uwsgi_runserver"),
        ("    import ws4redis.django_runserver", "django_runserver"),
    ],
)
def test_a_wsgi_file_with_a_loop_is_named_with_its_line(tmp_path, line, module):
    (tmp_path / "wsgi.py").write_text(f"import os\n\n{line}\n")
    (tmp_path / "other.py").write_text("# from ws4redis.uwsgi_runserver\nfrom ws4redis.publisher import x\n")
    names = found(BASE_DIR=tmp_path)
    assert list(names) == ["W011"]
    assert names["W011"].msg.startswith(f"{tmp_path}/wsgi.py:3 imports ws4redis.{module}")


def test_a_copy_of_the_old_package_is_reported(tmp_path, monkeypatch):
    copied = tmp_path / "vendor" / "ws4redis"
    copied.mkdir(parents=True)
    monkeypatch.syspath_prepend(tmp_path)
    assert found() == {}
    for name in ("__init__", "publisher", "redis_store"):
        (copied / f"{name}.py").write_text("")
    (tmp_path / "vendor" / "__init__.py").write_text("")
    # On the path, and as an app of the site.
    monkeypatch.setattr(sys, "path", [*sys.path, str(tmp_path / "vendor")])
    assert list(found()) == ["W012"]
    monkeypatch.setattr(sys, "path", [entry for entry in sys.path if not entry.endswith("vendor")])
    with override_settings():
        settings.INSTALLED_APPS = [*settings.INSTALLED_APPS, "vendor.ws4redis"]
        assert [one.id for one in leftovers.check_old_package(None)] == ["ws4redis.W012"]


# ---- Pages -----------------------------------------------------------------------------------------------------------


def templates(folder, *processors):
    """Returns TEMPLATES with this folder, and the given context processors."""
    configured = copy.deepcopy(settings.TEMPLATES)
    configured[0]["DIRS"] = [folder]
    configured[0]["APP_DIRS"] = False
    configured[0]["OPTIONS"] = {"context_processors": list(processors)}
    return configured


@pytest.mark.parametrize("text", ["{{ WEBSOCKET_URI }}x?subscribe-user", "{{WS4REDIS_HEARTBEAT}}"])
def test_a_missing_context_processor_is_reported_where_a_template_needs_it(tmp_path, text):
    page = tmp_path / "sub" / "page.html"
    page.parent.mkdir()
    page.write_text("<p>Hello</p>")
    assert found(TEMPLATES=templates(tmp_path)) == {}
    page.write_text(text)
    names = found(TEMPLATES=templates(tmp_path))
    assert list(names) == ["W013"]
    assert str(page) in names["W013"].msg
    assert found(TEMPLATES=templates(tmp_path, "ws4redis.context_processors.default")) == {}


@pytest.mark.parametrize(
    ("line", "is_silent"),
    [
        ("uri: '{{ WEBSOCKET_URI }}foobar?subscribe-broadcast&publish-broadcast&echo',", False),
        ("uri: '{{ WEBSOCKET_URI }}foobar',", True),
        ("uri: '{{ WEBSOCKET_URI }}foobar?echo',", True),
        ('new WebSocket("{{ WEBSOCKET_URI }}foobar?subscribe-brodcast")', True),
        ("new WebSocket(`{{ WEBSOCKET_URI }}foobar?SUBSCRIBE-user=1`)", False),
        ("uri: '{{ WEBSOCKET_URI }}foobar' + flags,", False),
        ("uri: '{{ WEBSOCKET_URI }}foobar?{{ flags }}',", False),
        ("uri: `{{ WEBSOCKET_URI }}foobar?${flags}`,", False),
        ("WS4Redis.connect('{{ WEBSOCKET_URI }}foobar', { subscribe: ['user'] })", False),
    ],
)
def test_an_address_without_a_valid_flag_is_named(tmp_path, line, is_silent):
    page = tmp_path / "page.html"
    page.write_text(f"<script>\n{line}\n</script>")
    names = found(TEMPLATES=templates(tmp_path, "ws4redis.context_processors.default"))
    assert list(names) == ["W014"] * is_silent
    assert not is_silent or names["W014"].msg.startswith(f"{page}:2 connects to 'foobar")


@pytest.mark.parametrize("folder", ["node_modules", "venv/lib/site-packages/a/templates", ".venv/lib"])
def test_installed_packages_below_a_folder_of_templates_are_not_read(tmp_path, folder):
    for parent, is_silent in ((tmp_path / folder, False), (tmp_path / "pages", True)):
        parent.mkdir(parents=True)
        (parent / "page.html").write_text("uri: '{{ WEBSOCKET_URI }}foobar'")
        names = found(TEMPLATES=templates(tmp_path, "ws4redis.context_processors.default"))
        assert list(names) == ["W014"] * is_silent
