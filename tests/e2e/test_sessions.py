"""Visitors log in at a Django site; their WebSockets at the gateway hear what is for them, as long as it is."""

import contextlib
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
import redis
from websockets.exceptions import InvalidStatus

from harness import DEADLINE, Client, unique, until
from worlds import ALL, manage

ANYBODY = set()
SOMEBODY = {"session own"}
JOHN = {"user john", "group chatusers", "group red team", "session own"}
MARY = {"user mary", "group chatusers", "group blue team", "session own"}


SETTLE_SECONDS = 1
"""For so long sockets stay open after their session has ended: until then, a login has brought its new cookie."""


@contextlib.contextmanager
def closed_sockets(world, *browsers, settle_seconds=0):
    """The sockets of these browsers are closed with 4401 for what happens in the block, and bystanders' are not.

    Not before the time that is given, and long before the gateway would look by itself.
    """
    facility = unique()
    bystander = world.browser("admin")
    with contextlib.ExitStack() as stack:
        clients = [
            stack.enter_context(world.connect(browser, facility)) for browser in browsers for _ in range(2)
        ]
        others = [
            stack.enter_context(world.connect(browser, facility)) for browser in (bystander, world.browser())
        ]
        for client in clients:
            world.drain(client, facility)
        admin, nobody = others
        before = world.hears(admin, facility, own=bystander.session_key)
        began = time.monotonic()
        yield
        for client in clients:
            assert client.expect_close(4401) == "session ended"
            assert time.monotonic() - began >= settle_seconds
        assert world.hears(admin, facility, own=bystander.session_key) == before
        assert world.hears(nobody, facility) == ANYBODY


@contextlib.contextmanager
def other_channels(world, browser, expected):
    """The open sockets of this browser have these channels after what happens in the block, and a bystander's the same."""
    facility = unique()
    bystander = world.browser("mary")
    with contextlib.ExitStack() as stack:
        clients = [stack.enter_context(world.connect(browser, facility)) for _ in range(2)]
        marys = stack.enter_context(world.connect(bystander, facility))
        yield
        for client in clients:
            until(
                lambda client=client: world.hears(client, facility, own=browser.session_key),
                expected,
                "the channels of an open socket",
            )
        assert world.hears(marys, facility, own=bystander.session_key) == MARY
    assert world.who(browser) == expected


def test_visitors_receive_their_own_messages_and_no_others(world):
    john, mary, nobody = world.browser("john"), world.browser("mary"), world.browser()
    assert world.who(john) == JOHN
    assert world.who(mary) == MARY
    assert world.who(nobody) == ANYBODY
    # The same visitors beside each other, and the others' sessions.
    facility = unique()
    sessions = {"john": john.session_key, "mary": mary.session_key}
    with (
        world.connect(john, facility) as johns,
        world.connect(mary, facility) as marys,
        world.connect(nobody, facility) as nobodys,
    ):
        assert world.hears(johns, facility, **sessions) == JOHN - SOMEBODY | {"session john"}
        assert world.hears(marys, facility, **sessions) == MARY - SOMEBODY | {"session mary"}
        assert world.hears(nobodys, facility, **sessions) == ANYBODY


def test_the_sites_own_views_reach_the_users_and_groups_they_name(world):
    john, mary = world.browser("john"), world.browser("mary")
    flags = "subscribe-user&subscribe-group"
    with (
        world.connect(john, "foobar", flags) as johns,
        world.connect(mary, "foobar", flags) as marys,
        world.connect(world.browser(), "foobar") as nobodys,
    ):
        assert mary.post("/userchat/", user="john", message="Hello John") == "1 receivers"
        assert mary.post("/groupchat/", group="red team", message="Hello reds") == "1 receivers"
        assert john.post("/groupchat/", group="chatusers", message="Hello both") == "1 receivers"
        assert john.post("/userchat/", user="mary", message="Hello Mary") == "1 receivers"
        assert {johns.receive() for _ in range(3)} == {"Hello John", "Hello reds", "Hello both"}
        assert {marys.receive() for _ in range(2)} == {"Hello both", "Hello Mary"}
        # Neither is there more on the way.
        johns.expect_nothing_before(lambda text: world.publish(text, "foobar", users=["john"]))
        marys.expect_nothing_before(lambda text: world.publish(text, "foobar", users=["mary"]))
        mary.open("/chat/")
        nobodys.expect("Hello everybody")
    # Whoever comes later is told, too; a group's last message is kept once.
    with world.connect(john, "foobar", ALL) as johns:
        kept = {johns.receive() for _ in range(4)}
        assert kept == {"Hello everybody", "Hello reds", "Hello both", "Hello John"}
    with world.connect(world.browser(), "foobar", ALL) as nobodys:
        nobodys.expect("Hello everybody")
        nobodys.expect_nothing_before(lambda text: world.publish(text, "foobar", broadcast=True))


def test_a_user_message_reaches_the_users_other_browser_only(world):
    john, second, mary = world.browser("john"), world.browser("john"), world.browser("mary")
    facility = unique()
    with (
        world.connect(john, facility, f"{ALL}&publish-user") as one,
        world.connect(second, facility) as two,
        world.connect(mary, facility) as marys,
    ):
        one.send("from my phone")
        two.expect("from my phone")
        assert "from my phone" not in world.hears(marys, facility)


def test_a_logout_closes_the_sockets_and_invalidates_the_old_cookie(world):
    john, elsewhere = world.browser("john"), world.browser("john")
    old = john.copy()
    with closed_sockets(world, john):
        john.log_out()
    assert old.session_key is not None
    assert world.who(old) == ANYBODY
    assert world.who(john) == ANYBODY
    # The session on the other device goes on.
    assert world.who(elsewhere) == JOHN
    john.log_in("john")
    assert world.who(john) == JOHN


def test_another_user_in_the_same_browser_takes_over_nothing(world):
    browser = world.browser("john")
    old = browser.copy()
    with closed_sockets(world, browser):
        browser.log_in("mary")
    assert world.who(browser) == MARY
    assert world.who(old) == ANYBODY


def test_a_login_gives_an_anonymous_session_a_new_key_and_closes_its_sockets(world):
    browser = world.browser()
    browser.get("/?set=something")
    anonymous = browser.copy()
    assert world.who(anonymous) == SOMEBODY
    with closed_sockets(world, anonymous, settle_seconds=SETTLE_SECONDS):
        browser.log_in("john")
    assert browser.session_key != anonymous.session_key
    assert world.who(browser) == JOHN
    assert world.who(anonymous) == ANYBODY


def test_a_deactivated_user_keeps_only_the_session_until_reactivation(world):
    john, mary = world.browser("john"), world.browser("mary")
    with closed_sockets(world, john):
        world.console.run("user = User.objects.get(username='john'); user.is_active = False; user.save()")
    assert world.who(john) == SOMEBODY
    assert world.who(mary) == MARY
    assert john.get("/")["user"] == ""
    world.console.run("user = User.objects.get(username='john'); user.is_active = True; user.save()")
    assert world.who(john) == JOHN


def test_a_password_changed_elsewhere_ends_all_sessions_of_the_user(world):
    phone, laptop = world.browser("john"), world.browser("john")
    with closed_sockets(world, phone, laptop):
        world.console.run("user = User.objects.get(username='john'); user.set_password('new'); user.save()")
    assert world.who(phone) == world.who(laptop) == SOMEBODY
    # Django ends such a session when it sees it, and what was connected anew meanwhile.
    with closed_sockets(world, phone.copy()):
        assert phone.get("/")["user"] == ""
    assert world.who(phone) == ANYBODY
    assert world.who(world.browser("john", "new")) == JOHN


def test_a_password_change_at_the_site_keeps_only_the_login_that_made_it(world):
    phone, laptop = world.browser("john"), world.browser("john")
    before = laptop.copy()
    facility = unique()
    form = {"old_password": "secret", "new_password1": "neu", "new_password2": "neu"}
    with (
        ThreadPoolExecutor() as pool,
        world.connect(phone, facility) as phones,
        world.connect(laptop, facility) as laptops,
    ):
        posted = pool.submit(laptop.post, "/accounts/password/", **form)
        assert laptops.expect_close(4401) == "session ended"
        # One reconnect, with the cookie that is there by now.
        with world.connect(laptop, facility) as again:
            assert world.hears(again, facility, own=laptop.session_key) == JOHN
        posted.result(DEADLINE)
        phones.expect_close(4401)
    assert laptop.get("/")["user"] == "john"
    assert world.who(laptop) == JOHN
    assert world.who(phone) == SOMEBODY
    assert world.who(before) == ANYBODY


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
def test_changed_groups_change_the_channels_of_the_same_sockets(world, change, groups):
    world.console.run("Group.objects.filter(name='newcomers').delete()")
    john = world.browser("john")
    with other_channels(world, john, {"user john", "session own"} | {f"group {name}" for name in groups}):
        world.console.run(change)


def test_a_new_member_of_a_group_receives_its_last_message(world):
    world.console.run("Group.objects.get_or_create(name='newcomers')[0].user_set.clear()")
    facility = unique()
    world.publish("welcome", facility, expire=60, groups=["newcomers"])
    with world.connect(world.browser("john"), facility) as client:
        world.console.run(
            "Group.objects.get(name='newcomers').user_set.add(User.objects.get(username='john'))"
        )
        client.expect("welcome")


def test_a_new_username_changes_the_channel_of_the_same_sockets(world):
    john = world.browser("john")
    try:
        with other_channels(world, john, JOHN - {"user john"} | {"user jim"}):
            world.console.run("user = User.objects.get(username='john'); user.username = 'jim'; user.save()")
    finally:
        world.console.run("user = User.objects.get(username='jim'); user.username = 'john'; user.save()")


def test_a_deleted_user_is_anonymous(world):
    john = world.browser("john")
    with closed_sockets(world, john):
        world.console.run("User.objects.get(username='john').delete()")
    assert world.who(john) == SOMEBODY


def test_changes_without_signals_apply_after_a_refresh(world):
    john = world.browser("john")
    with closed_sockets(world, john):
        world.console.run("User.objects.filter(username='john').update(is_active=False)")
        assert world.who(john) == JOHN
        world.console.run("identity.refresh(User.objects.get(username='john'))")
    assert world.who(john) == SOMEBODY


def test_a_session_that_expires_closes_its_sockets(world):
    john = world.browser("john")
    world.console.run(
        "session = SessionStore(key); session.set_expiry(2); session.save()", key=john.session_key
    )
    # Nothing looks at it any more, and Redis may not say that it is over.
    with world.connect(john, unique()) as client:
        assert client.expect_close(4401) == "session ended"
    assert world.who(john) == ANYBODY
    assert john.get("/")["user"] == ""


def test_a_session_that_is_used_and_saved_keeps_its_sockets(world):
    john = world.browser("john")
    other = world.browser("john")
    facility = unique()
    with world.connect(john, facility) as client:
        # Whatever is said of the session that was only saved is said before the logout.
        with closed_sockets(world, other):
            john.get("/?set=something")
            other.log_out()
        assert world.hears(client, facility, own=john.session_key) == JOHN


def test_sessions_from_before_the_package_get_their_names_with_the_next_request(world):
    john = world.browser("john")
    world.console.run(
        "session = SessionStore(key)\n"
        "for name in [name for name in session.keys() if name.startswith('ws4redis:')]: del session[name]\n"
        "session.save()\n"
        "from ws4redis import connection\n"
        "connection.client().delete(identity.key(session['_auth_user_id']))",
        key=john.session_key,
    )
    assert world.who(john) == SOMEBODY
    with other_channels(world, john, JOHN):
        john.get("/")


def test_without_an_identity_key_the_session_fields_apply(world):
    john = world.browser("john")
    world.console.run(
        "from ws4redis import connection\n"
        "answer = connection.client().delete(identity.key(SessionStore(key)['_auth_user_id']))",
        key=john.session_key,
    )
    assert world.who(john) == JOHN


def test_pages_of_other_sites_cannot_use_the_cookie(world):
    john = world.browser("john")
    with pytest.raises(InvalidStatus) as refused:
        Client(
            world.gateway.url(unique(), ALL),
            origin="https://evil.example",
            additional_headers=[("Cookie", john.cookies())],
        )
    assert refused.value.response.status_code == 403


def test_the_package_knows_the_key_of_the_sessions(world):
    john = world.browser("john")
    template = world.console.run("answer = session_engine.describe().template")
    with redis.Redis(port=world.redis.port) as client:
        assert client.exists(template.replace("{key}", john.session_key)) == 1


def test_the_doctor_finds_no_error(world):
    code, report = manage("ws4redis_doctor", **world.variables)
    assert code == 0, report
    assert "all settings match" in report
    assert "error" not in report
