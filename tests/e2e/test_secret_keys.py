"""A site takes a new SECRET_KEY and keeps the old one among its SECRET_KEY_FALLBACKS: nobody has to log in again."""

import pytest

from test_sessions import JOHN
from worlds import Kind, World

OLD, NEW = "the first one of the end-to-end tests", "the second one of the end-to-end tests"
KINDS = [
    Kind("new_key+cache", {"sessions": "cache", "secret_key": OLD}),
    Kind(
        "new_key+redis_sessions",
        {"sessions": "redis_sessions", "secret_key": OLD},
        # The gateway has both from the start.
        {"session__secret_key": NEW, "session__secret_key_fallbacks": OLD},
    ),
]


@pytest.fixture(params=KINDS, ids=lambda kind: kind.name)
def world(request, database):
    world = World(request.param, database(request.param))
    world.begin()
    yield world
    world.stop()


@pytest.fixture
def john(world):
    """Has logged in under the old key."""
    john = world.browser("john")
    assert world.who(john) == JOHN
    world.reopen_site(secret_key=NEW, secret_key_fallbacks=OLD)
    return john


def test_sessions_from_before_a_new_secret_key_keep_their_user(world, john):
    assert world.who(john) == JOHN
    # The login writes the user's key anew; the digests by the old key stand in it, too.
    assert world.who(world.browser("john")) == JOHN
    assert world.who(john) == JOHN
    # With the next request, Django changes the session's digest to one by the new key.
    assert john.get("/")["user"] == "john"
    assert world.who(john) == JOHN


def test_a_session_that_django_moves_to_the_new_secret_key_keeps_its_user(world, john):
    assert john.get("/")["user"] == "john"
    assert world.who(john) == JOHN


def test_a_refresh_of_all_users_applies_the_new_secret_key(world, john):
    world.console.run("identity.refresh(*identity.pks_with_key())")
    assert world.who(john) == JOHN
    assert john.get("/")["user"] == "john"
    assert world.who(john) == JOHN
