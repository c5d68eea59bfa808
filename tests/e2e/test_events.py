"""Sites without the Django package: only keyspace notifications report the end of sessions."""

import pytest

from test_sessions import NO_CHANNELS, SETTLE_SECONDS, SESSION_ONLY, closed_sockets
from deployments import SECRET_KEY, SiteKind, Deployment


def kind(sessions, **gateway):
    return SiteKind(f"events+{sessions}", {"sessions": sessions, "without_package": "1"}, gateway, events=True)


KINDS = [
    kind("cache"),
    kind("cached_db"),
    kind("django_redis"),
    kind("redis_sessions", session__secret_key=SECRET_KEY),
]


@pytest.fixture(scope="module", params=KINDS, ids=lambda kind: kind.name)
def started(request, database):
    deployment = Deployment(request.param, database(request.param))
    yield deployment
    deployment.stop()


@pytest.fixture
def deployment(started):
    started.reset()
    return started


def test_each_way_to_end_a_session_closes_its_sockets(deployment):
    logged_out, replaced, changed = deployment.browser("john"), deployment.browser("john"), deployment.browser("mary")
    anonymous = deployment.browser()
    anonymous.get("/?set=something")
    deleted, shortened = deployment.browser("john"), deployment.browser("john")
    all_of_them = (logged_out, replaced, changed, anonymous, deleted, shortened)
    before = [browser.copy() for browser in all_of_them]
    # Without the package no user or group names are stored.
    assert deployment.channels_of_new_socket(logged_out) == SESSION_ONLY
    with closed_sockets(deployment, *before, settle_seconds=SETTLE_SECONDS):
        logged_out.log_out()
        replaced.log_in("mary")
        changed.post("/accounts/password/", old_password="secret", new_password1="neu", new_password2="neu")
        anonymous.log_in("john")
        deployment.console.run("SessionStore(key).delete()", key=deleted.session_key)
        deployment.console.run(
            "session = SessionStore(key); session.set_expiry(1); session.save()", key=shortened.session_key
        )
    for browser in before:
        assert deployment.channels_of_new_socket(browser) == NO_CHANNELS
    for browser in (replaced, changed, anonymous):
        assert deployment.channels_of_new_socket(browser) == SESSION_ONLY


def test_a_session_that_is_used_and_saved_keeps_its_sockets(deployment):
    john, other = deployment.browser("john"), deployment.browser("john")
    with deployment.connect(john, "x") as client:
        with closed_sockets(deployment, other):
            john.get("/?set=something")
            other.log_out()
        assert deployment.channels_of(client, "x", own=john.session_key) == SESSION_ONLY
