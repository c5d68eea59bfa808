"""Sites that have nothing of the Django package: Redis alone tells that sessions end."""

import pytest

from test_sessions import ANYBODY, SETTLE_SECONDS, SOMEBODY, closed_sockets
from worlds import SECRET_KEY, Kind, World


def kind(sessions, **gateway):
    return Kind(f"events+{sessions}", {"sessions": sessions, "without_package": "1"}, gateway, events=True)


KINDS = [
    kind("cache"),
    kind("cached_db"),
    kind("django_redis"),
    kind("redis_sessions", session__secret_key=SECRET_KEY),
]


@pytest.fixture(scope="module", params=KINDS, ids=lambda kind: kind.name)
def started(request, database):
    world = World(request.param, database(request.param))
    yield world
    world.stop()


@pytest.fixture
def world(started):
    started.begin()
    return started


def test_each_way_to_end_a_session_closes_its_sockets(world):
    logged_out, replaced, changed = world.browser("john"), world.browser("john"), world.browser("mary")
    anonymous = world.browser()
    anonymous.get("/?set=something")
    deleted, shortened = world.browser("john"), world.browser("john")
    all_of_them = (logged_out, replaced, changed, anonymous, deleted, shortened)
    before = [browser.copy() for browser in all_of_them]
    # Nobody has written their names anywhere.
    assert world.who(logged_out) == SOMEBODY
    with closed_sockets(world, *before, settle_seconds=SETTLE_SECONDS):
        logged_out.log_out()
        replaced.log_in("mary")
        changed.post("/accounts/password/", old_password="secret", new_password1="neu", new_password2="neu")
        anonymous.log_in("john")
        world.console.run("SessionStore(key).delete()", key=deleted.session_key)
        world.console.run(
            "session = SessionStore(key); session.set_expiry(1); session.save()", key=shortened.session_key
        )
    for browser in before:
        assert world.who(browser) == ANYBODY
    for browser in (replaced, changed, anonymous):
        assert world.who(browser) == SOMEBODY


def test_a_session_that_is_used_and_saved_keeps_its_sockets(world):
    john, other = world.browser("john"), world.browser("john")
    with world.connect(john, "x") as client:
        with closed_sockets(world, other):
            john.get("/?set=something")
            other.log_out()
        assert world.hears(client, "x", own=john.session_key) == SOMEBODY
