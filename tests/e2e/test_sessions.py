"""Visitors log in at a Django site; their WebSockets receive their own messages until the session ends."""

import contextlib
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
import redis
from websockets.exceptions import InvalidStatus

from harness import DEADLINE, Client, unique, until
from deployments import ALL, manage

NO_CHANNELS = set()
SESSION_ONLY = {"session own"}
JOHN = {"user john", "group chatusers", "group red team", "session own"}
MARY = {"user mary", "group chatusers", "group blue team", "session own"}


SETTLE_SECONDS = 1
"""The delay between the end of a session and the close of its sockets, in which a login delivers its new cookie."""


@contextlib.contextmanager
def closed_sockets(deployment, *browsers, settle_seconds=0):
    """Expects that the block closes the sockets of these browsers with 4401, and no others.

    They close after at least `settle_seconds`, and long before the gateway would recheck the sessions.
    """
    facility = unique()
    bystander = deployment.browser("admin")
    with contextlib.ExitStack() as stack:
        clients = [
            stack.enter_context(deployment.connect(browser, facility)) for browser in browsers for _ in range(2)
        ]
        others = [
            stack.enter_context(deployment.connect(browser, facility)) for browser in (bystander, deployment.browser())
        ]
        for client in clients:
            deployment.drain(client, facility)
        admin, anonymous = others
        before = deployment.channels_of(admin, facility, own=bystander.session_key)
        began = time.monotonic()
        yield
        for client in clients:
            assert client.expect_close(4401) == "session ended"
            assert time.monotonic() - began >= settle_seconds
        assert deployment.channels_of(admin, facility, own=bystander.session_key) == before
        assert deployment.channels_of(anonymous, facility) == NO_CHANNELS


@contextlib.contextmanager
def changed_channels(deployment, browser, expected):
    """Expects that the block changes the channels of this browser's open sockets, and of no others."""
    facility = unique()
    bystander = deployment.browser("mary")
    with contextlib.ExitStack() as stack:
        clients = [stack.enter_context(deployment.connect(browser, facility)) for _ in range(2)]
        marys = stack.enter_context(deployment.connect(bystander, facility))
        yield
        for client in clients:
            until(
                lambda client=client: deployment.channels_of(client, facility, own=browser.session_key),
                expected,
                "the channels of an open socket",
            )
        assert deployment.channels_of(marys, facility, own=bystander.session_key) == MARY
    assert deployment.channels_of_new_socket(browser) == expected


def test_visitors_receive_their_own_messages_and_no_others(deployment):
    john, mary, anonymous = deployment.browser("john"), deployment.browser("mary"), deployment.browser()
    assert deployment.channels_of_new_socket(john) == JOHN
    assert deployment.channels_of_new_socket(mary) == MARY
    assert deployment.channels_of_new_socket(anonymous) == NO_CHANNELS
    # The same visitors connected at once; each other's sessions are audiences as well.
    facility = unique()
    sessions = {"john": john.session_key, "mary": mary.session_key}
    with (
        deployment.connect(john, facility) as johns,
        deployment.connect(mary, facility) as marys,
        deployment.connect(anonymous, facility) as anonymous_client,
    ):
        assert deployment.channels_of(johns, facility, **sessions) == JOHN - SESSION_ONLY | {"session john"}
        assert deployment.channels_of(marys, facility, **sessions) == MARY - SESSION_ONLY | {"session mary"}
        assert deployment.channels_of(anonymous_client, facility, **sessions) == NO_CHANNELS


def test_the_sites_own_views_reach_the_users_and_groups_they_name(deployment):
    john, mary = deployment.browser("john"), deployment.browser("mary")
    flags = "subscribe-user&subscribe-group"
    with (
        deployment.connect(john, "foobar", flags) as johns,
        deployment.connect(mary, "foobar", flags) as marys,
        deployment.connect(deployment.browser(), "foobar") as anonymous_client,
    ):
        assert mary.post("/userchat/", user="john", message="Hello John") == "1 receivers"
        assert mary.post("/groupchat/", group="red team", message="Hello reds") == "1 receivers"
        assert john.post("/groupchat/", group="chatusers", message="Hello both") == "1 receivers"
        assert john.post("/userchat/", user="mary", message="Hello Mary") == "1 receivers"
        assert {johns.receive() for _ in range(3)} == {"Hello John", "Hello reds", "Hello both"}
        assert {marys.receive() for _ in range(2)} == {"Hello both", "Hello Mary"}
        # No further message is in flight.
        johns.expect_nothing_before(lambda text: deployment.publish(text, "foobar", users=["john"]))
        marys.expect_nothing_before(lambda text: deployment.publish(text, "foobar", users=["mary"]))
        mary.open("/chat/")
        anonymous_client.expect("Hello everybody")
    # Later connections receive the persisted messages; the last one of a group is replayed once.
    with deployment.connect(john, "foobar", ALL) as johns:
        kept = {johns.receive() for _ in range(4)}
        assert kept == {"Hello everybody", "Hello reds", "Hello both", "Hello John"}
    with deployment.connect(deployment.browser(), "foobar", ALL) as anonymous_client:
        anonymous_client.expect("Hello everybody")
        anonymous_client.expect_nothing_before(lambda text: deployment.publish(text, "foobar", broadcast=True))


def test_a_user_message_reaches_the_users_other_browser_only(deployment):
    john, second, mary = deployment.browser("john"), deployment.browser("john"), deployment.browser("mary")
    facility = unique()
    with (
        deployment.connect(john, facility, f"{ALL}&publish-user") as one,
        deployment.connect(second, facility) as two,
        deployment.connect(mary, facility) as marys,
    ):
        one.send("from my phone")
        two.expect("from my phone")
        assert "from my phone" not in deployment.channels_of(marys, facility)


def test_a_logout_closes_the_sockets_and_invalidates_the_old_cookie(deployment):
    john, elsewhere = deployment.browser("john"), deployment.browser("john")
    old = john.copy()
    with closed_sockets(deployment, john):
        john.log_out()
    assert old.session_key is not None
    assert deployment.channels_of_new_socket(old) == NO_CHANNELS
    assert deployment.channels_of_new_socket(john) == NO_CHANNELS
    # The session on the other device continues.
    assert deployment.channels_of_new_socket(elsewhere) == JOHN
    john.log_in("john")
    assert deployment.channels_of_new_socket(john) == JOHN


def test_another_user_in_the_same_browser_takes_over_nothing(deployment):
    browser = deployment.browser("john")
    old = browser.copy()
    with closed_sockets(deployment, browser):
        browser.log_in("mary")
    assert deployment.channels_of_new_socket(browser) == MARY
    assert deployment.channels_of_new_socket(old) == NO_CHANNELS


def test_a_login_gives_an_anonymous_session_a_new_key_and_closes_its_sockets(deployment):
    browser = deployment.browser()
    browser.get("/?set=something")
    anonymous = browser.copy()
    assert deployment.channels_of_new_socket(anonymous) == SESSION_ONLY
    with closed_sockets(deployment, anonymous, settle_seconds=SETTLE_SECONDS):
        browser.log_in("john")
    assert browser.session_key != anonymous.session_key
    assert deployment.channels_of_new_socket(browser) == JOHN
    assert deployment.channels_of_new_socket(anonymous) == NO_CHANNELS


def test_a_deactivated_user_keeps_only_the_session_until_reactivation(deployment):
    john, mary = deployment.browser("john"), deployment.browser("mary")
    with closed_sockets(deployment, john):
        deployment.console.run("user = User.objects.get(username='john'); user.is_active = False; user.save()")
    assert deployment.channels_of_new_socket(john) == SESSION_ONLY
    assert deployment.channels_of_new_socket(mary) == MARY
    assert john.get("/")["user"] == ""
    deployment.console.run("user = User.objects.get(username='john'); user.is_active = True; user.save()")
    assert deployment.channels_of_new_socket(john) == JOHN


def test_a_password_changed_elsewhere_ends_all_sessions_of_the_user(deployment):
    phone, laptop = deployment.browser("john"), deployment.browser("john")
    with closed_sockets(deployment, phone, laptop):
        deployment.console.run("user = User.objects.get(username='john'); user.set_password('new'); user.save()")
    assert deployment.channels_of_new_socket(phone) == deployment.channels_of_new_socket(laptop) == SESSION_ONLY
    # Django flushes such a session at its next request, which also closes the sockets that reconnected before it.
    with closed_sockets(deployment, phone.copy()):
        assert phone.get("/")["user"] == ""
    assert deployment.channels_of_new_socket(phone) == NO_CHANNELS
    assert deployment.channels_of_new_socket(deployment.browser("john", "new")) == JOHN


def test_a_password_change_at_the_site_keeps_only_the_login_that_made_it(deployment):
    phone, laptop = deployment.browser("john"), deployment.browser("john")
    before = laptop.copy()
    facility = unique()
    form = {"old_password": "secret", "new_password1": "neu", "new_password2": "neu"}
    with (
        ThreadPoolExecutor() as pool,
        deployment.connect(phone, facility) as phones,
        deployment.connect(laptop, facility) as laptops,
    ):
        posted = pool.submit(laptop.post, "/accounts/password/", **form)
        assert laptops.expect_close(4401) == "session ended"
        # One reconnect suffices: the response has delivered the new cookie.
        with deployment.connect(laptop, facility) as again:
            assert deployment.channels_of(again, facility, own=laptop.session_key) == JOHN
        posted.result(DEADLINE)
        phones.expect_close(4401)
    assert laptop.get("/")["user"] == "john"
    assert deployment.channels_of_new_socket(laptop) == JOHN
    assert deployment.channels_of_new_socket(phone) == SESSION_ONLY
    assert deployment.channels_of_new_socket(before) == NO_CHANNELS


@pytest.mark.parametrize(
    ("change", "groups"),
    [
        (
            "User.objects.get(username='john').groups.remove(Group.objects.get(name='red team'))",
            {"chatusers"},
        ),
        (
            "Group.objects.get_or_create(name='newcomers')[0].user_set.add(User.objects.get(username='john'))",
            {"chatusers", "red team", "newcomers"},
        ),
        (
            "group = Group.objects.get(name='red team'); group.name = 'newcomers'; group.save()",
            {"chatusers", "newcomers"},
        ),
        ("Group.objects.get(name='red team').delete()", {"chatusers"}),
    ],
    ids=["removed", "added", "renamed", "deleted"],
)
def test_changed_groups_change_the_channels_of_the_same_sockets(deployment, change, groups):
    deployment.console.run("Group.objects.filter(name='newcomers').delete()")
    john = deployment.browser("john")
    with changed_channels(deployment, john, {"user john", "session own"} | {f"group {name}" for name in groups}):
        deployment.console.run(change)


def test_a_new_member_of_a_group_receives_its_last_message(deployment):
    deployment.console.run("Group.objects.get_or_create(name='newcomers')[0].user_set.clear()")
    facility = unique()
    deployment.publish("welcome", facility, expire=60, groups=["newcomers"])
    with deployment.connect(deployment.browser("john"), facility) as client:
        deployment.console.run(
            "Group.objects.get(name='newcomers').user_set.add(User.objects.get(username='john'))"
        )
        client.expect("welcome")


def test_a_new_username_changes_the_channel_of_the_same_sockets(deployment):
    john = deployment.browser("john")
    try:
        with changed_channels(deployment, john, JOHN - {"user john"} | {"user jim"}):
            deployment.console.run("user = User.objects.get(username='john'); user.username = 'jim'; user.save()")
    finally:
        deployment.console.run("user = User.objects.get(username='jim'); user.username = 'john'; user.save()")


def test_a_deleted_user_is_anonymous(deployment):
    john = deployment.browser("john")
    with closed_sockets(deployment, john):
        deployment.console.run("User.objects.get(username='john').delete()")
    assert deployment.channels_of_new_socket(john) == SESSION_ONLY


def test_changes_without_signals_apply_after_a_refresh(deployment):
    john = deployment.browser("john")
    with closed_sockets(deployment, john):
        deployment.console.run("User.objects.filter(username='john').update(is_active=False)")
        assert deployment.channels_of_new_socket(john) == JOHN
        deployment.console.run("identity.refresh(User.objects.get(username='john'))")
    assert deployment.channels_of_new_socket(john) == SESSION_ONLY


def test_a_session_that_expires_closes_its_sockets(deployment):
    john = deployment.browser("john")
    deployment.console.run(
        "session = SessionStore(key); session.set_expiry(2); session.save()", key=john.session_key
    )
    # No request touches the session any more, and Redis may lack keyspace notifications: the lease itself ends.
    with deployment.connect(john, unique()) as client:
        assert client.expect_close(4401) == "session ended"
    assert deployment.channels_of_new_socket(john) == NO_CHANNELS
    assert john.get("/")["user"] == ""


def test_a_session_that_is_used_and_saved_keeps_its_sockets(deployment):
    john = deployment.browser("john")
    other = deployment.browser("john")
    facility = unique()
    with deployment.connect(john, facility) as client:
        # Any event about the saved session precedes those of the logout.
        with closed_sockets(deployment, other):
            john.get("/?set=something")
            other.log_out()
        assert deployment.channels_of(client, facility, own=john.session_key) == JOHN


def test_sessions_from_before_the_package_get_their_names_with_the_next_request(deployment):
    john = deployment.browser("john")
    deployment.console.run(
        "session = SessionStore(key)\n"
        "for name in [name for name in session.keys() if name.startswith('ws4redis:')]: del session[name]\n"
        "session.save()\n"
        "from ws4redis import connection\n"
        "connection.client().delete(identity.key(session['_auth_user_id']))",
        key=john.session_key,
    )
    assert deployment.channels_of_new_socket(john) == SESSION_ONLY
    with changed_channels(deployment, john, JOHN):
        john.get("/")


def test_without_an_identity_key_the_session_fields_apply(deployment):
    john = deployment.browser("john")
    deployment.console.run(
        "from ws4redis import connection\n"
        "answer = connection.client().delete(identity.key(SessionStore(key)['_auth_user_id']))",
        key=john.session_key,
    )
    assert deployment.channels_of_new_socket(john) == JOHN


def test_pages_of_other_sites_cannot_use_the_cookie(deployment):
    john = deployment.browser("john")
    with pytest.raises(InvalidStatus) as refused:
        Client(
            deployment.gateway.url(unique(), ALL),
            origin="https://evil.example",
            additional_headers=[("Cookie", john.cookies())],
        )
    assert refused.value.response.status_code == 403


def test_the_package_knows_the_key_of_the_sessions(deployment):
    john = deployment.browser("john")
    template = deployment.console.run("answer = session_engine.describe().template")
    with redis.Redis(port=deployment.redis.port) as client:
        assert client.exists(template.replace("{key}", john.session_key)) == 1


def test_the_doctor_finds_no_error(deployment):
    code, report = manage("ws4redis_doctor", **deployment.variables)
    assert code == 0, report
    assert "the settings of what is on match" in report
    assert "error" not in report
