"""The contract of addresses, over the wire: what `channels.py` says is what Redis sees."""

import contextlib

import pytest

from channels import ELSEWHERE, IDLE, NEEDS_IDENTITY, PATHS, PUBLISHING, REFUSED_PATHS, SUBSCRIBING
from harness import handshake, unique, until

PREFIX = "golden"
COOKIE = "Cookie: sessionid=wnqd0gbw5obpnj50zwh6yaq2yz4o8g9x"


@pytest.fixture
def golden(store):
    """A gateway whose channels are told from all others by their prefix, and leave with their listener."""
    return store.another(prefix=PREFIX, redis__unsubscribe_linger_seconds="0")


@contextlib.contextmanager
def channels(store, gateway, target, *headers):
    """The channels that are subscribed to while a client of `target` is connected."""

    def now():
        names = {name.decode().removeprefix(f"{PREFIX}:") for name in store.redis.pubsub_channels(f"{PREFIX}:*")}
        # The gateway's own, whatever clients there are.
        return names - {"ws4redis:control"}

    until(now, lambda names: names <= {"broadcast:ready"}, "the channels of the client before")
    with gateway.dial() as connection:
        status, head, body = handshake(connection, target, *headers)
        assert status == 101, f"{target}: {head}\n{body}"
        # They are all subscribed to before the 101.
        yield now() - {"broadcast:ready"}


@pytest.mark.parametrize("path, facility", PATHS.items())
def test_a_path_names_its_facility(store, golden, path, facility):
    target = path if path.endswith("&") else f"{path}?"
    with channels(store, golden, f"/ws/{target}subscribe-broadcast") as subscribed:
        assert subscribed == {f"broadcast:{facility}"}


@pytest.mark.parametrize("path, status", REFUSED_PATHS.items())
def test_a_path_that_names_no_facility_is_refused(golden, path, status):
    got, head, body = golden.handshake(f"/ws/{path}?subscribe-broadcast")
    assert got == status, head
    assert body.strip(), "the body says why"


@pytest.mark.parametrize("target", ELSEWHERE)
def test_a_path_outside_the_prefix_is_not_found(golden, target):
    assert golden.handshake(target)[0] == 404


@pytest.mark.parametrize("query", SUBSCRIBING)
def test_a_query_subscribes(store, golden, query):
    facility = unique()
    with channels(store, golden, f"/ws/{facility}?{query}") as subscribed:
        assert subscribed == {f"broadcast:{facility}"}


@pytest.mark.parametrize("query", IDLE)
def test_a_query_without_flags_opens_an_idle_socket(store, golden, query):
    with channels(store, golden, f"/ws/{unique()}{query}") as subscribed:
        assert subscribed == set()


@pytest.mark.parametrize("flag", NEEDS_IDENTITY)
@pytest.mark.parametrize("headers", [(), (COOKIE,)], ids=["anonymous", "unknown session"])
def test_an_anonymous_client_has_no_channel_of_its_own(store, golden, flag, headers):
    facility = unique()
    with channels(store, golden, f"/ws/{facility}?{flag}", *headers) as subscribed:
        assert subscribed == set()
    with channels(store, golden, f"/ws/{facility}?{flag}&subscribe-broadcast", *headers) as subscribed:
        assert subscribed == {f"broadcast:{facility}"}


@pytest.mark.parametrize("query, published", PUBLISHING.items())
def test_a_query_publishes(golden, ear, query, published):
    facility = unique()
    with golden.connect(facility, query) as client:
        client.send("a message")
    # What a client said is in Redis before its close is answered.
    expected = [(f"{PREFIX}:broadcast:{facility}", b"a message")] if published else []
    assert ear.heard() == expected


def test_the_prefix_is_compared_decoded(store, golden):
    facility = unique()
    with channels(store, golden, f"/w%73/{facility}?subscribe-broadcast") as subscribed:
        assert subscribed == {f"broadcast:{facility}"}
