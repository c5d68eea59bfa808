"""The records of users: session fields, identity keys, and invalidations."""

import asyncio
import hashlib
import json
import threading
from importlib import import_module

import pytest
import redis
from asgiref.sync import sync_to_async
from chat.models import Staff
from chat.people import PASSWORD
from django.conf import settings
from django.contrib import auth
from django.contrib.auth import get_user, update_session_auth_hash
from django.contrib.auth.models import Group, User
from django.contrib.sessions.middleware import SessionMiddleware
from django.core.handlers.exception import convert_exception_to_response
from django.core.management import CommandError, call_command
from django.db import transaction
from django.http import HttpResponse
from django.test import Client, RequestFactory, override_settings
from stores import commands

import ws4redis.middleware
from ws4redis import identity, models

alogin, alogout = getattr(auth, "alogin", None), getattr(auth, "alogout", None)

ENGINES = {
    "cache": "django.contrib.sessions.backends.cache",
    "cached_db": "django.contrib.sessions.backends.cached_db",
    "db": "django.contrib.sessions.backends.db",
    "signed_cookies": "django.contrib.sessions.backends.signed_cookies",
    "redis_sessions": "redis_sessions.session",
}


def key_of(store, user):
    """Returns the decoded identity key of a user, or None."""
    value = store.get(f"ws4redis:identity:{user.pk}")
    return json.loads(value) if value is not None else None


def invalidation_of(user, reason):
    """Returns the message on the control channel that invalidates a user."""
    return json.dumps({"v": 1, "user": str(user.pk), "reason": reason}, separators=(",", ":"))


def end_of_session(key):
    """Returns the message on the control channel that reports the end of a session."""
    digest = hashlib.sha256(b"ws4redis:session:" + key.encode()).hexdigest()
    return json.dumps({"v": 1, "ended": digest}, separators=(",", ":"))


def key_in(browser):
    """Returns the session key of a browser."""
    return browser.cookies[settings.SESSION_COOKIE_NAME].value


def session_of(browser):
    """Returns the browser's session as a dict."""
    store_class = import_module(settings.SESSION_ENGINE).SessionStore
    session = store_class(browser.cookies[settings.SESSION_COOKIE_NAME].value)
    return dict(session.items())


@pytest.fixture
def written(people, store):
    """The users, all with a current identity key."""
    identity.refresh(*people.values())
    return people


# ---- Login and logout ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("engine", ENGINES)
def test_a_login_writes_name_and_groups_into_the_session_and_the_users_key(people, store, log_in, engine):
    with override_settings(SESSION_ENGINE=ENGINES[engine]):
        session = session_of(log_in("john"))
    assert session["ws4redis:username"] == "john"
    assert session["ws4redis:memberof"] == ["chatusers", "red team"]
    record = key_of(store, people["john"])
    assert record == {
        "v": 1,
        "active": True,
        "username": "john",
        "groups": ["chatusers", "red team"],
        "auth_hashes": [session["_auth_user_hash"]],
    }
    assert session["_auth_user_id"] == str(people["john"].pk)


def test_the_users_key_outlives_the_session(people, store, log_in):
    log_in("john")
    assert store.ttl(f"ws4redis:identity:{people['john'].pk}") == 2 * settings.SESSION_COOKIE_AGE
    with override_settings(WS4REDIS_IDENTITY_SECONDS=10):
        assert identity.ttl_seconds() == settings.SESSION_COOKIE_AGE
    with override_settings(WS4REDIS_IDENTITY_SECONDS=10**8):
        log_in("john")
    # A later login never shortens it.
    log_in("john")
    assert store.ttl(f"ws4redis:identity:{people['john'].pk}") > 10**8 - 10


def test_the_keys_have_the_prefix(people, store, log_in):
    with override_settings(WS4REDIS_PREFIX="demo"):
        log_in("john")
    assert store.exists(f"demo:ws4redis:identity:{people['john'].pk}")
    assert not store.exists(f"ws4redis:identity:{people['john'].pk}")


def test_fallback_secrets_are_in_the_key(people, store, log_in):
    old = log_in("john")
    first = session_of(old)["_auth_user_hash"]
    with override_settings(SECRET_KEY="another", SECRET_KEY_FALLBACKS=[settings.SECRET_KEY]):
        identity.refresh(people["john"])
        hashes = key_of(store, people["john"])["auth_hashes"]
        assert hashes == [people["john"].get_session_auth_hash(), first]


def test_an_async_login_does_the_same(people, store):
    if alogin is None:
        pytest.skip("Django has no async login yet")
    request = RequestFactory().get("/")
    request.session = import_module(settings.SESSION_ENGINE).SessionStore()
    asyncio.run(alogin(request, people["john"], "django.contrib.auth.backends.ModelBackend"))
    assert request.session["ws4redis:username"] == "john"
    assert key_of(store, people["john"])["username"] == "john"


def test_the_receiver_keeps_its_import_path(people):
    request = RequestFactory().get("/")
    request.session = {}
    models.store_groups_in_session(sender=User, user=people["john"], request=request)
    assert request.session["ws4redis:memberof"] == ["chatusers", "red team"]


def test_groups_may_come_from_a_function_of_the_site(people, store, log_in):
    with override_settings(WS4REDIS_GROUPS=lambda user: [f"fans of {user.get_username()}", "all"]):
        assert session_of(log_in("john"))["ws4redis:memberof"] == ["all", "fans of john"]
    assert key_of(store, people["john"])["groups"] == ["all", "fans of john"]


@pytest.mark.parametrize("engine", ["cache", "cached_db", "db", "redis_sessions"])
def test_a_logout_is_announced_after_the_session_is_deleted(people, store, log_in, invalidations, engine):
    with override_settings(SESSION_ENGINE=ENGINES[engine]):
        browser = log_in("john")
        invalidations.received()
        key = key_in(browser)
        store_class = import_module(settings.SESSION_ENGINE).SessionStore
        seen = []

        def listen():
            seen.extend(invalidations.received(1))
            seen.append(store_class(key).get("_auth_user_id"))
            seen.extend(invalidations.received(1))

        listener = threading.Thread(target=listen)
        listener.start()
        with commands(store) as sent:
            browser.post("/accounts/logout/")
        listener.join()
    assert seen == [invalidation_of(people["john"], "logout"), None, end_of_session(key)]
    assert invalidations.received() == []
    if engine in ("cache", "redis_sessions"):
        words = [words[0] for words in sent]
        assert words.index("DEL") < words.index("PUBLISH")


def test_the_announcement_of_a_logout_waits_for_the_commit(people, store, log_in, invalidations):
    browser = log_in("john")
    key = key_in(browser)
    invalidations.received()
    with transaction.atomic():
        browser.post("/accounts/logout/")
        assert invalidations.received() == []
    assert invalidations.received(2) == [invalidation_of(people["john"], "logout"), end_of_session(key)]


def test_an_async_logout_is_announced(people, store, invalidations):
    if alogout is None:
        pytest.skip("Django has no async logout yet")
    request = RequestFactory().get("/")
    request.session = import_module(settings.SESSION_ENGINE).SessionStore()
    asyncio.run(alogin(request, people["john"], "django.contrib.auth.backends.ModelBackend"))
    invalidations.received()

    async def auser():
        return people["john"]

    request.user, request.auser = people["john"], auser
    key = request.session.session_key
    asyncio.run(alogout(request))
    # No middleware ran that could have announced the end of the session.
    assert invalidations.received(2) == [end_of_session(key), invalidation_of(people["john"], "logout")]
    assert "flush" not in request.session.__dict__


def test_a_logout_of_an_anonymous_visitor_is_not_announced(people, invalidations):
    Client().post("/accounts/logout/")
    assert invalidations.received() == []


# ---- Sessions that end -----------------------------------------------------------------------------------------------


@pytest.fixture
def visit(people, store):
    """Returns a function that sends a request with this session's cookie through the middleware to a view."""

    def visit(view, key, asynchronous=False):
        request = RequestFactory().get("/", headers={"cookie": f"{settings.SESSION_COOKIE_NAME}={key}"})
        if not asynchronous:
            return SessionMiddleware(ws4redis.middleware.SessionMiddleware(view))(request)

        async def aview(request):
            await sync_to_async(view)(request)
            return HttpResponse()

        return asyncio.run(SessionMiddleware(ws4redis.middleware.SessionMiddleware(aview))(request))

    return visit


def doing(action):
    """Returns a view that applies `action` to the request."""

    def view(request):
        action(request)
        return HttpResponse()

    return view


def replace_by_new(request):
    """Replaces the session object; the session itself continues."""
    request.session = import_module(settings.SESSION_ENGINE).SessionStore()
    request.session["note"] = "x"


def stored_session(**values):
    """Stores a new session; returns its key."""
    session = import_module(settings.SESSION_ENGINE).SessionStore()
    session.update({"note": "x"} | values)
    session.save()
    return session.session_key


@pytest.mark.parametrize("engine", ["cache", "cached_db", "db", "redis_sessions"])
@pytest.mark.parametrize("asynchronous", [False, True], ids=["sync", "async"])
@pytest.mark.parametrize(
    "end",
    [lambda request: request.session.flush(), lambda request: request.session.cycle_key()],
    ids=["flush", "cycle"],
)
def test_a_session_ended_by_a_view_is_announced(visit, invalidations, engine, asynchronous, end):
    with override_settings(SESSION_ENGINE=ENGINES[engine]):
        key = stored_session()
        visit(doing(end), key, asynchronous)
    assert invalidations.received(1) == [end_of_session(key)]
    assert invalidations.received() == []


def test_a_login_ends_the_anonymous_session_and_that_of_another_user(people, log_in, invalidations):
    browser = Client()
    browser.get("/?set=something")
    anonymous = key_in(browser)
    log_in("john", browser)
    assert end_of_session(anonymous) in invalidations.received(2)
    johns = key_in(browser)
    log_in("mary", browser)
    assert end_of_session(johns) in invalidations.received(2)
    assert invalidations.received() == []


def test_a_second_login_of_the_same_user_keeps_the_session(people, log_in, invalidations):
    browser = log_in("john")
    key = key_in(browser)
    invalidations.received()
    log_in("john", browser)
    assert key_in(browser) == key
    assert invalidations.received() == []


def test_a_password_change_ends_the_session_that_made_it(written, log_in, invalidations):
    browser = log_in("john")
    key = key_in(browser)
    browser.post(
        "/accounts/password/",
        {"old_password": PASSWORD, "new_password1": "a-b-c-d-9", "new_password2": "a-b-c-d-9"},
    )
    assert invalidations.received(2) == [invalidation_of(written["john"], "user"), end_of_session(key)]


def test_a_session_that_django_rejects_is_announced(written, log_in, invalidations):
    browser = log_in("john")
    key = key_in(browser)
    written["john"].set_password("another")
    written["john"].save()
    invalidations.received()
    browser.get("/")
    assert invalidations.received(1) == [end_of_session(key)]


@pytest.mark.parametrize(
    "action",
    [
        lambda request: None,
        lambda request: request.session.get("note"),
        lambda request: request.session.update({"note": "y"}),
        replace_by_new,
    ],
    ids=["nothing", "read", "written", "replaced"],
)
def test_a_continuing_session_is_not_announced(visit, store, action):
    key = stored_session()
    with commands(store) as seen:
        visit(doing(action), key)
    assert "PUBLISH" not in {words[0] for words in seen}


def test_a_cookie_without_a_session_is_not_announced(visit, store):
    with commands(store) as seen:
        visit(doing(lambda request: request.session.get("note")), "x" * 32)
    assert "PUBLISH" not in {words[0] for words in seen}


def test_the_end_of_a_session_is_announced_after_the_commit(visit, invalidations):
    key = stored_session()
    with transaction.atomic():
        visit(doing(lambda request: request.session.flush()), key)
        assert invalidations.received() == []
    assert invalidations.received(1) == [end_of_session(key)]


def test_the_end_of_a_session_is_announced_even_if_the_view_fails(people, log_in, invalidations):
    def fail(request):
        request.session.flush()
        raise ZeroDivisionError

    key = stored_session()
    request = RequestFactory().get("/", headers={"cookie": f"sessionid={key}"})
    chain = ws4redis.middleware.SessionMiddleware(convert_exception_to_response(fail))
    # The same nesting as in Django's handler.
    answer = convert_exception_to_response(SessionMiddleware(chain))(request)
    assert answer.status_code == 500
    assert invalidations.received(1) == [end_of_session(key)]


def test_signed_cookies_are_not_announced(visit, store):
    def save(request):
        request.session["note"] = "y"
        request.session.save()
        assert request.session.session_key != key

    with override_settings(SESSION_ENGINE=ENGINES["signed_cookies"]), commands(store) as seen:
        key = stored_session()
        visit(doing(save), key)
    assert seen == []


def test_a_request_without_sessions_is_answered(people):
    request = RequestFactory().get("/", headers={"cookie": f"sessionid={'x' * 32}"})
    assert ws4redis.middleware.SessionMiddleware(lambda request: "answer")(request) == "answer"


# ---- Changes ---------------------------------------------------------------------------------------------------------


def test_an_unchanged_user_is_announced_once(people, log_in, invalidations):
    log_in("john")
    assert invalidations.received(1) == [invalidation_of(people["john"], "login")]
    log_in("john")
    assert invalidations.received() == []


def test_a_new_password_changes_the_hash(written, store, log_in, invalidations):
    john = written["john"]
    before = key_of(store, john)
    john.set_password("another")
    john.save()
    after = key_of(store, john)
    assert invalidations.received(1) == [invalidation_of(john, "user")]
    assert after["auth_hashes"] == [john.get_session_auth_hash()] != before["auth_hashes"]


def test_the_browser_that_changes_the_password_stays_logged_in(written, store, log_in):
    browser, other = log_in("john"), log_in("john")
    answer = browser.post(
        "/accounts/password/",
        {"old_password": PASSWORD, "new_password1": "a-b-c-d-9", "new_password2": "a-b-c-d-9"},
    )
    assert answer.status_code == 302
    hashes = key_of(store, written["john"])["auth_hashes"]
    assert session_of(browser)["_auth_user_hash"] in hashes
    assert session_of(browser)["ws4redis:username"] == "john"
    assert session_of(other)["_auth_user_hash"] not in hashes


def test_a_user_saved_or_deleted_through_a_proxy(written, store, invalidations):
    john = Staff.objects.get(username="john")
    pk = john.pk
    john.is_active = False
    john.save()
    assert invalidations.received(1) == [invalidation_of(written["john"], "user")]
    john.delete()
    assert store.get(f"ws4redis:identity:{pk}") == b'{"v":1,"active":false}'


def test_deactivation_and_reactivation(written, store, invalidations):
    john = written["john"]
    for active in (False, True):
        john.is_active = active
        john.save(update_fields=["is_active"])
        assert invalidations.received(1) == [invalidation_of(john, "user")]
        assert key_of(store, john)["active"] is active


def test_backends_decide_who_may_log_in(written, store):
    john = written["john"]
    john.is_active = False
    with override_settings(
        AUTHENTICATION_BACKENDS=["django.contrib.auth.backends.AllowAllUsersModelBackend"]
    ):
        john.save()
    assert key_of(store, john)["active"] is True


def test_another_name(written, store, invalidations):
    john = written["john"]
    john.username = "jörg:x"
    john.save()
    assert invalidations.received(1) == [invalidation_of(john, "user")]
    assert key_of(store, john)["username"] == "jörg:x"
    # Stored as UTF-8.
    assert "jörg" in store.get(f"ws4redis:identity:{john.pk}").decode()


def test_a_deleted_user_leaves_a_tombstone(written, store, invalidations):
    john = User.objects.get(username="john")
    pk = john.pk
    john.delete()
    assert invalidations.received(1) == [
        json.dumps({"v": 1, "user": str(pk), "reason": "deleted"}, separators=(",", ":"))
    ]
    assert store.get(f"ws4redis:identity:{pk}") == b'{"v":1,"active":false}'
    assert store.ttl(f"ws4redis:identity:{pk}") >= settings.SESSION_COOKIE_AGE


def test_users_deleted_by_a_query_leave_tombstones(written, store):
    User.objects.filter(username__in=["john", "mary"]).delete()
    assert [key_of(store, written[name])["active"] for name in ("john", "mary", "admin")] == [
        False,
        False,
        True,
    ]


def test_a_user_without_a_key_gets_one_at_the_first_change(people, store, invalidations):
    people["john"].save()
    assert key_of(store, people["john"])["username"] == "john"
    assert invalidations.received(1) == [invalidation_of(people["john"], "user")]


def test_saving_an_unchanged_user_is_not_announced(written, invalidations):
    written["john"].first_name = "John"
    written["john"].save()
    written["john"].save(update_fields=["last_login"])
    assert invalidations.received() == []


def test_a_new_user_has_no_key(people, store):
    assert key_of(store, User.objects.create_user("new")) is None


@pytest.mark.parametrize(
    "change",
    [
        lambda john, group: john.groups.add(group),
        lambda john, group: group.user_set.add(john),
        lambda john, group: john.groups.set([*john.groups.all(), group]),
    ],
)
def test_joining_a_group_from_either_side(written, store, invalidations, change):
    change(written["john"], Group.objects.get(name="blue team"))
    assert invalidations.received(1) == [invalidation_of(written["john"], "groups")]
    assert key_of(store, written["john"])["groups"] == ["blue team", "chatusers", "red team"]
    assert key_of(store, written["mary"])["groups"] == ["blue team", "chatusers"]


@pytest.mark.parametrize(
    "change",
    [
        lambda john, group: john.groups.remove(group),
        lambda john, group: group.user_set.remove(john),
        lambda john, group: group.user_set.clear(),
        lambda john, group: group.delete(),
        lambda john, group: Group.objects.filter(name=group.name).delete(),
    ],
)
def test_leaving_a_group_from_either_side(written, store, invalidations, change):
    change(written["john"], Group.objects.get(name="red team"))
    assert invalidations.received(1) == [invalidation_of(written["john"], "groups")]
    assert key_of(store, written["john"])["groups"] == ["chatusers"]


def test_leaving_all_groups(written, store):
    written["john"].groups.clear()
    assert key_of(store, written["john"])["groups"] == []


def test_renaming_a_group_refreshes_its_members(written, store, invalidations):
    group = Group.objects.get(name="chatusers")
    group.save()
    assert invalidations.received() == []
    group.name = "talkers"
    group.save()
    assert sorted(invalidations.received(2)) == sorted(
        invalidation_of(written[name], "groups") for name in ("john", "mary")
    )
    assert key_of(store, written["mary"])["groups"] == ["blue team", "talkers"]


def test_changes_wait_for_the_commit(written, store, invalidations):
    john = written["john"]
    with transaction.atomic():
        john.groups.clear()
        john.is_active = False
        john.save()
        assert invalidations.received() == []
        assert key_of(store, john)["active"] is True
    assert key_of(store, john)["active"] is False
    # One message suffices: the second refresh finds the key current.
    assert len(invalidations.received(1) + invalidations.received()) == 1
    with pytest.raises(ZeroDivisionError), transaction.atomic():
        john.groups.add(Group.objects.get(name="blue team"))
        raise ZeroDivisionError
    assert invalidations.received() == []


def test_an_older_state_never_overwrites_a_newer_one(written, store, monkeypatch):
    john = written["john"]
    original = identity._current
    raced = []

    def slow(pk):
        record = original(pk)
        if not raced:
            raced.append(pk)
            # Another process changes row and key between this read of the row and the write of the key.
            User.objects.filter(pk=pk).update(username="newer")
            identity.refresh(pk)
        return record

    monkeypatch.setattr(identity, "_current", slow)
    identity.refresh(john)
    assert raced
    assert key_of(store, john)["username"] == "newer"


def test_an_unreachable_redis_stops_no_login_and_no_change(people, log_in, caplog):
    gone = {"unix_socket_path": "/nonexistent/redis.sock"}
    with override_settings(WS4REDIS_CONNECTION=gone):
        browser = log_in("john")
        people["john"].save()
        browser.post("/accounts/logout/")
        with pytest.raises(redis.ConnectionError):
            identity.refresh(people["john"])
    # One line at the login, one at the change, two at the logout.
    assert caplog.text.count("the gateway was not informed") == 4


# ---- manage.py ws4redis_refresh --------------------------------------------------------------------------------------


def test_refreshing_after_a_bulk_update(written, store, invalidations, capsys):
    User.objects.filter(username="john").update(is_active=False)
    User.groups.through.objects.filter(user=written["mary"])._raw_delete("default")
    User.objects.filter(username="mary")._raw_delete("default")
    assert invalidations.received() == []
    call_command("ws4redis_refresh", all=True)
    assert capsys.readouterr().out == "2 users changed\n"
    assert len(invalidations.received(2)) == 2
    assert [key_of(store, written[name])["active"] for name in ("john", "mary", "admin")] == [
        False,
        False,
        True,
    ]


def test_refreshing_named_users_always_announces_them(written, invalidations, capsys):
    call_command("ws4redis_refresh", "john")
    assert invalidations.received(1) == [invalidation_of(written["john"], "refresh")]
    with pytest.raises(CommandError, match="there is no user nobody"):
        call_command("ws4redis_refresh", "john", "nobody")
    with pytest.raises(CommandError, match="--all"):
        call_command("ws4redis_refresh")


# ---- The middleware --------------------------------------------------------------------------------------------------


def login_from_before(browser, user):
    """Logs in with a session as Django creates it without this package."""
    browser.force_login(user)
    session = browser.session
    for name in ("ws4redis:username", "ws4redis:memberof", "ws4redis:written"):
        session.pop(name, None)
    session.save()


def test_a_session_from_before_the_installation_gets_its_fields(people, store):
    browser = Client()
    login_from_before(browser, people["john"])
    store.delete(f"ws4redis:identity:{people['john'].pk}")
    assert "ws4redis:username" not in session_of(browser)
    assert browser.get("/").json()["user"] == "john"
    assert session_of(browser)["ws4redis:username"] == "john"
    assert session_of(browser)["ws4redis:memberof"] == ["chatusers", "red team"]
    assert key_of(store, people["john"])["username"] == "john"


def test_a_current_session_costs_nothing(people, store, log_in):
    browser = log_in("john")
    with commands(store) as seen:
        browser.get("/")
    assert {words[0] for words in seen} == {"GET"}


def test_old_fields_are_renewed(people, store, log_in):
    browser = log_in("john")
    session = browser.session
    session["ws4redis:written"] -= settings.SESSION_COOKIE_AGE
    session["ws4redis:memberof"] = ["long ago"]
    session.save()
    browser.get("/")
    assert session_of(browser)["ws4redis:memberof"] == ["chatusers", "red team"]


def test_pages_that_do_not_use_the_session_stay_cacheable(people):
    browser = Client()
    login_from_before(browser, people["john"])
    answer = browser.get("/async/?message=x")
    assert "Cookie" not in answer.headers.get("Vary", "")
    assert "ws4redis:username" not in session_of(browser)


def test_anonymous_sessions_are_left_alone(people):
    browser = Client()
    browser.get("/?set=x")
    assert set(session_of(browser)) == {"note"}


def test_a_session_with_an_old_hash_gets_no_fields(people, store):
    browser = Client()
    login_from_before(browser, people["john"])
    people["john"].set_password("another")
    people["john"].save()
    assert browser.get("/").json()["user"] == ""
    assert session_of(browser) == {}


def test_the_middleware_works_for_async_sites(people, store):
    from django.test import AsyncClient

    browser = AsyncClient()
    login_from_before(browser, people["john"])
    asyncio.run(browser.get("/"))
    assert session_of(browser)["ws4redis:username"] == "john"


def test_the_fields_survive_update_session_auth_hash(people, store, log_in):
    browser = log_in("john")
    request = RequestFactory().get("/")
    request.session, request.user = browser.session, people["john"]
    update_session_auth_hash(request, people["john"])
    assert request.session["ws4redis:username"] == "john"
    assert get_user(request) == people["john"]
