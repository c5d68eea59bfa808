"""Users and groups without a name, since `USERNAME_FIELD` may be null."""

import json

import pytest
from django.contrib.auth.models import AnonymousUser, Group, User
from django.test import Client, RequestFactory, override_settings

from ws4redis import identity
from ws4redis.publisher import RedisPublisher
from ws4redis.redis_store import MEMBEROF, SELF

SECRET = "of the tests, long enough"


@pytest.fixture(params=[None, ""])
def nameless(request, people, monkeypatch):
    """The user john with a user model that returns no name."""
    monkeypatch.setattr(User, "get_username", lambda self: request.param)
    return people["john"]


def request_of(user, session=None):
    request = RequestFactory().get("/")
    request.user, request.session = user, session or {}
    return request


def test_a_login_without_a_name_writes_null_and_never_the_word_none(nameless, store):
    session = {}
    identity.write_session_fields(session, nameless)
    assert session["ws4redis:username"] is None
    assert session["ws4redis:memberof"] == ["chatusers", "red team"]
    assert identity.is_fresh(session)
    identity.refresh(nameless)
    record = json.loads(store.get(f"ws4redis:identity:{nameless.pk}"))
    assert (record["active"], record["username"]) == (True, None)
    assert record["groups"] == ["chatusers", "red team"]


def test_the_callback_reports_a_user_without_a_name_as_logged_in(log_in, monkeypatch):
    browser = log_in("john")
    monkeypatch.setattr(User, "get_username", lambda self: None)
    with override_settings(WS4REDIS_CALLBACK_SECRET=SECRET):
        answer = browser.get("/ws4redis/identity/", headers={"X-WS4Redis-Secret": SECRET}).json()
        anonymous = Client().get("/ws4redis/identity/", headers={"X-WS4Redis-Secret": SECRET}).json()
    assert (answer["user"], answer["groups"]) == ("", ["chatusers", "red team"])
    assert answer["id"]
    assert anonymous is None


@pytest.mark.parametrize("arguments", ["instance", "self"])
def test_nothing_is_published_to_a_user_without_a_name(nameless, arguments):
    request = request_of(nameless)
    users = [nameless] if arguments == "instance" else [SELF]
    with pytest.raises(ValueError, match="name"):
        RedisPublisher(facility="x", users=users, request=request)
    with pytest.warns(DeprecationWarning, match="users=True"):
        publisher = RedisPublisher(facility="x", users=True, request=request)
    assert publisher.publish_message("to no user") == 0


@pytest.mark.parametrize(
    "audience",
    [
        {"users": [""]},
        {"users": [None]},
        {"users": [AnonymousUser()]},
        {"groups": [""]},
        {"groups": [Group(name="")]},
        {"sessions": [""]},
        {"users": ["john", ""]},
        {"users": [SELF], "request": request_of(AnonymousUser())},
    ],
)
def test_empty_names_are_refused_by_the_publisher(store, audience):
    with pytest.raises(ValueError, match="user|group|session"):
        RedisPublisher(facility="x", **audience)


def test_a_user_without_a_name_fetches_no_message_of_others(nameless, store):
    for name in ("", "None"):
        store.set(f"user:{name}:x", "of somebody else")
    request = request_of(nameless, {MEMBEROF: [""]})
    request.session = type("Session", (dict,), {"session_key": None})(request.session)
    assert RedisPublisher(facility="x").fetch_message(request, "x") is None


def test_groups_without_a_name_are_left_out(people):
    with override_settings(WS4REDIS_GROUPS=lambda user: ["", None, "a"]):
        assert identity.group_names(people["john"]) == ["a"]
