"""The callback view, with requests like the gateway's."""

import json
from importlib import import_module

import pytest
from django.conf import settings
from django.contrib.auth import middleware
from django.contrib.auth.models import User
from django.test import Client, RequestFactory, override_settings
from stores import commands
from test_identity import ENGINES, login_from_before

from ws4redis.views import IdentityView

SECRET = "a secret of some length"
URL = "/ws4redis/identity/"


@pytest.fixture(autouse=True)
def secret():
    """The secret of the gateway."""
    with override_settings(WS4REDIS_CALLBACK_SECRET=SECRET):
        yield


def request_identity(browser=None, url=URL, secret=SECRET):
    """Sends the gateway's request with the cookies of a browser; returns the response."""
    gateway = Client()
    for name, cookie in browser.cookies.items() if browser is not None else ():
        gateway.cookies[name] = cookie.value
    return gateway.get(url, headers={"X-WS4Redis-Secret": secret}) if secret is not None else gateway.get(url)


@pytest.mark.parametrize("engine", ENGINES)
def test_the_answer_for_a_login_has_groups_and_session(people, log_in, engine):
    with override_settings(SESSION_ENGINE=ENGINES[engine]):
        browser = log_in("john")
        answer = request_identity(browser)
        key = browser.cookies["sessionid"].value
    assert answer.status_code == 200
    assert answer.json() == {
        "user": "john",
        "id": str(people["john"].pk),
        "groups": ["chatusers", "red team"],
        # The key of a signed-cookie session is the session itself, which must not become a channel name.
        "session": key if engine != "signed_cookies" else None,
        "expires_in": 300,
    }
    assert "no-store" in answer.headers["Cache-Control"]


@pytest.mark.parametrize("engine", ["cache", "cached_db", "db", "redis_sessions"])
def test_the_answer_for_an_anonymous_session_has_no_user(people, engine):
    with override_settings(SESSION_ENGINE=ENGINES[engine]):
        browser = Client()
        browser.get("/?set=x")
        answer = request_identity(browser).json()
    assert answer == {
        "user": None,
        "id": None,
        "groups": [],
        "session": browser.cookies["sessionid"].value,
        "expires_in": 300,
    }


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("cookie", [None, "", "a" * 32, "x:y*", "user:john:foobar", "short", "é" * 40])
def test_an_unknown_visitor_is_null(people, engine, cookie):
    browser = Client()
    if cookie is not None:
        browser.cookies["sessionid"] = cookie
    with override_settings(SESSION_ENGINE=ENGINES[engine]):
        answer = request_identity(browser)
    assert (answer.status_code, answer.content) == (200, b"null")


@pytest.mark.parametrize("given", [None, "", "wrong", SECRET + "x", "ö"])
def test_without_the_secret_the_view_answers_403(people, log_in, given):
    answer = request_identity(log_in("john"), secret=given)
    assert answer.status_code == 403
    assert b"john" not in answer.content


@pytest.mark.parametrize("mine", [None, "", [], [""]])
def test_a_site_without_a_secret_refuses_every_request(people, mine):
    with override_settings(WS4REDIS_CALLBACK_SECRET=mine):
        for given in (None, "", "None", SECRET):
            assert request_identity(secret=given).status_code == 403


def test_the_secret_can_be_changed_without_a_gap(people):
    with override_settings(WS4REDIS_CALLBACK_SECRET=["new one", SECRET]):
        assert request_identity().status_code == request_identity(secret="new one").status_code == 200


def test_a_visitor_cannot_be_logged_out_by_the_view(people, log_in):
    browser = log_in("john")
    assert browser.get(URL).status_code == 403
    assert browser.get("/").json()["user"] == "john"


def test_other_methods_are_refused(people):
    assert Client().post(URL, headers={"X-WS4Redis-Secret": SECRET}).status_code in (403, 405)
    assert Client().delete(URL, headers={"X-WS4Redis-Secret": SECRET}).status_code == 405


def test_deactivated_deleted_and_changed_users_are_anonymous(people, log_in):
    for change in ("is_active", "password", "delete"):
        browser = Client()
        login_from_before(browser, User.objects.get(username="mary"))
        mary = User.objects.get(username="mary")
        if change == "delete":
            mary.delete()
        elif change == "password":
            mary.set_password("another")
            mary.save()
        else:
            mary.is_active = False
            mary.save()
        answer = request_identity(browser).json()
        assert (answer["user"], answer["groups"]) == (None, [])
        assert answer["session"] == browser.cookies["sessionid"].value
        if change == "is_active":
            mary.is_active = True
            mary.save()


@pytest.mark.parametrize("middleware_of_ours", [True, False])
def test_the_view_changes_no_session(people, store, log_in, middleware_of_ours):
    browser = log_in("john")
    people["john"].set_password("another")
    people["john"].save()
    chain = [name for name in settings.MIDDLEWARE if middleware_of_ours or not name.startswith("ws4redis")]
    with override_settings(SESSION_SAVE_EVERY_REQUEST=True, MIDDLEWARE=chain), commands(store) as seen:
        answer = request_identity(browser)
    # Django's get_user would have flushed the session, and the middleware would have saved it.
    assert {words[0] for words in seen} <= {"GET", "EXISTS"}
    assert "sessionid" not in answer.cookies or answer.cookies["sessionid"].value == ""


def test_a_session_made_with_an_old_secret_key_keeps_its_key(people, store, log_in):
    browser = log_in("john")
    with override_settings(SECRET_KEY="another", SECRET_KEY_FALLBACKS=[settings.SECRET_KEY]):
        assert request_identity(browser).json()["user"] == "john"
    session = import_module(settings.SESSION_ENGINE).SessionStore(browser.cookies["sessionid"].value)
    assert session["_auth_user_id"] == str(people["john"].pk)


@pytest.mark.parametrize("stale", [False, True])
def test_login_required_middleware_exempts_the_gateway(people, store, log_in, stale):
    required = "django.contrib.auth.middleware.LoginRequiredMiddleware"
    if not hasattr(middleware, "LoginRequiredMiddleware"):
        pytest.skip("Django has no LoginRequiredMiddleware yet")
    browser = log_in("john")
    if stale:
        people["john"].set_password("another")
        people["john"].save()
    with override_settings(MIDDLEWARE=[*settings.MIDDLEWARE, required]):
        assert request_identity().content == b"null"
        assert request_identity(browser).json()["user"] == (None if stale else "john")
    # The session still exists, although that middleware evaluates request.user.
    key = browser.cookies["sessionid"].value
    assert store.exists(f":1:django.contrib.sessions.cache{key}")


def test_the_answer_expires_with_the_session(people, log_in):
    browser = log_in("john")
    session = browser.session
    session.set_expiry(20)
    session.save()
    assert request_identity(browser).json()["expires_in"] == 20


def test_a_site_can_override_identify_and_allow(people):
    class TokenView(IdentityView):
        def identify(self, request, session):
            if request.headers.get("Authorization") == "Token of mary":
                return User.objects.get(username="mary")
            return super().identify(request, session)

        def allow(self, request, user, facility, flags):
            return {"subscribe-user", "publish-broadcast"} if facility == "tür/1" else None

    def body_of(query):
        headers = {"X-WS4Redis-Secret": SECRET, "Authorization": "Token of mary"}
        request = RequestFactory().get(URL + query, headers=headers)
        return TokenView.as_view()(request).content.decode()

    assert body_of("?facility=t%C3%BCr/1&flag=subscribe-user&flag=subscribe-broadcast") == (
        f'{{"user": "mary", "id": "{people["mary"].pk}", "groups": ["blue team", "chatusers"], '
        '"session": null, "expires_in": 300, '
        '"allow": ["subscribe-user"]}'
    )
    assert "allow" not in body_of("?facility=f&flag=subscribe-user")


def test_allow_applies_to_unknown_visitors(people):
    class StaffView(IdentityView):
        def allow(self, request, user, facility, flags):
            return [] if facility.startswith("staff/") and user is None else None

    def body_of(facility):
        request = RequestFactory().get(
            f"{URL}?facility={facility}&flag=subscribe-user", headers={"X-WS4Redis-Secret": SECRET}
        )
        return json.loads(StaffView.as_view()(request).content)

    assert body_of("staff/x")["allow"] == []
    assert body_of("staff/x")["user"] is None
    assert body_of("news") is None
