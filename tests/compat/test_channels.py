"""The address contract over the wire: Redis sees the subscriptions and publications of `channels.py`."""

import contextlib

import pytest

from channels import ELSEWHERE, IDLE, NEEDS_IDENTITY, PATHS, PUBLISHING, REFUSED_PATHS, SUBSCRIBING
from harness import handshake, unique, until

PREFIX = "golden"
COOKIE = "Cookie: sessionid=wnqd0gbw5obpnj50zwh6yaq2yz4o8g9x"


@pytest.fixture
def prefixed_gateway(store):
    """A gateway whose prefix separates its channels from all others, and that unsubscribes without a linger time."""
    return store.another(prefix=PREFIX, redis__unsubscribe_linger_seconds="0")


@contextlib.contextmanager
def channels(store, gateway, target, *headers):
    """Yields the channels that are subscribed to while a client of `target` is connected."""

    def now():
        names = {name.decode().removeprefix(f"{PREFIX}:") for name in store.redis.pubsub_channels(f"{PREFIX}:*")}
        # The gateway itself subscribes to the control channel.
        return names - {"ws4redis:control"}

    until(now, lambda names: names <= {"broadcast:ready"}, "the end of the last client's subscriptions")
    with gateway.dial() as connection:
        status, head, body = handshake(connection, target, *headers)
        assert status == 101, f"{target}: {head}\n{body}"
        # All subscriptions precede the 101.
        yield now() - {"broadcast:ready"}


@pytest.mark.parametrize("path, facility", PATHS.items())
def test_a_path_names_its_facility(store, prefixed_gateway, path, facility):
    target = path if path.endswith("&") else f"{path}?"
    with channels(store, prefixed_gateway, f"/ws/{target}subscribe-broadcast") as subscribed:
        assert subscribed == {f"broadcast:{facility}"}


@pytest.mark.parametrize("path, status", REFUSED_PATHS.items())
def test_a_path_that_names_no_facility_is_refused(prefixed_gateway, path, status):
    received, head, body = prefixed_gateway.handshake(f"/ws/{path}?subscribe-broadcast")
    assert received == status, head
    assert body.strip(), "a body with the reason"


@pytest.mark.parametrize("target", ELSEWHERE)
def test_a_path_outside_the_prefix_is_not_found(prefixed_gateway, target):
    assert prefixed_gateway.handshake(target)[0] == 404


@pytest.mark.parametrize("query", SUBSCRIBING)
def test_a_query_subscribes(store, prefixed_gateway, query):
    facility = unique()
    with channels(store, prefixed_gateway, f"/ws/{facility}?{query}") as subscribed:
        assert subscribed == {f"broadcast:{facility}"}


@pytest.mark.parametrize("query", IDLE)
def test_a_query_without_flags_opens_an_idle_socket(store, prefixed_gateway, query):
    with channels(store, prefixed_gateway, f"/ws/{unique()}{query}") as subscribed:
        assert subscribed == set()


@pytest.mark.parametrize("flag", NEEDS_IDENTITY)
@pytest.mark.parametrize("headers", [(), (COOKIE,)], ids=["anonymous", "unknown session"])
def test_an_anonymous_client_has_no_channel_of_its_own(store, prefixed_gateway, flag, headers):
    facility = unique()
    with channels(store, prefixed_gateway, f"/ws/{facility}?{flag}", *headers) as subscribed:
        assert subscribed == set()
    with channels(store, prefixed_gateway, f"/ws/{facility}?{flag}&subscribe-broadcast", *headers) as subscribed:
        assert subscribed == {f"broadcast:{facility}"}


@pytest.mark.parametrize("query, published", PUBLISHING.items())
def test_a_query_publishes(prefixed_gateway, recorder, query, published):
    facility = unique()
    with prefixed_gateway.connect(facility, query) as client:
        client.send("a message")
    # The gateway answers a close after the client's messages are in Redis.
    expected = [(f"{PREFIX}:broadcast:{facility}", b"a message")] if published else []
    assert recorder.received() == expected


def test_the_prefix_is_compared_decoded(store, prefixed_gateway):
    facility = unique()
    with channels(store, prefixed_gateway, f"/w%73/{facility}?subscribe-broadcast") as subscribed:
        assert subscribed == {f"broadcast:{facility}"}
