"""A site rotates its SECRET_KEY and keeps the old one in SECRET_KEY_FALLBACKS: no visitor has to log in again."""

import pytest

from test_sessions import JOHN
from deployments import SiteKind, Deployment

OLD, NEW = "the first one of the end-to-end tests", "the second one of the end-to-end tests"
KINDS = [
    SiteKind("new_key+cache", {"sessions": "cache", "secret_key": OLD}),
    SiteKind(
        "new_key+redis_sessions",
        {"sessions": "redis_sessions", "secret_key": OLD},
        # The gateway has both from the start.
        {"session__secret_key": NEW, "session__secret_key_fallbacks": OLD},
    ),
]


@pytest.fixture(params=KINDS, ids=lambda kind: kind.name)
def deployment(request, database):
    deployment = Deployment(request.param, database(request.param))
    deployment.reset()
    yield deployment
    deployment.stop()


@pytest.fixture
def john(deployment):
    """A browser that logged in under the old key."""
    john = deployment.browser("john")
    assert deployment.channels_of_new_socket(john) == JOHN
    deployment.reopen_site(secret_key=NEW, secret_key_fallbacks=OLD)
    return john


def test_sessions_from_before_a_new_secret_key_keep_their_user(deployment, john):
    assert deployment.channels_of_new_socket(john) == JOHN
    # The login rewrites the user's key; the digests made with the old key are in it, too.
    assert deployment.channels_of_new_socket(deployment.browser("john")) == JOHN
    assert deployment.channels_of_new_socket(john) == JOHN
    # At the next request Django replaces the session's digest by one made with the new key.
    assert john.get("/")["user"] == "john"
    assert deployment.channels_of_new_socket(john) == JOHN


def test_a_session_that_django_moves_to_the_new_secret_key_keeps_its_user(deployment, john):
    assert john.get("/")["user"] == "john"
    assert deployment.channels_of_new_socket(john) == JOHN


def test_a_refresh_of_all_users_applies_the_new_secret_key(deployment, john):
    deployment.console.run("identity.refresh(*identity.pks_with_key())")
    assert deployment.channels_of_new_socket(john) == JOHN
    assert john.get("/")["user"] == "john"
    assert deployment.channels_of_new_socket(john) == JOHN
