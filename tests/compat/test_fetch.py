"""Browsers publish; Django reads with the package's own fetch_message or a Redis subscription."""

import pytest

from harness import unique, until
from visitors import UpstreamBrowser

FLAGS_WITH_ECHO = "subscribe-broadcast&publish-broadcast&echo"


def publish_and_await_echo(gateway, facility, message, flags=FLAGS_WITH_ECHO):
    """Publishes as a client and waits for the echo, which proves that Redis has the message."""
    with gateway.connect(facility, flags) as client:
        client.send(message)
        client.expect(message)


@pytest.mark.parametrize("message", ["a word", "Grüße 🎈", b"\xff\x00"], ids=["text", "unicode", "binary"])
def test_django_fetches_what_a_client_published(store, gateway, site, message):
    facility = unique()
    publish_and_await_echo(gateway, facility, message)
    expected = message if isinstance(message, bytes) else message.encode()
    assert site.fetch(facility) == expected
    assert site.fetch(facility, audience="broadcast") == expected
    assert 3590 <= store.redis.ttl(f"broadcast:{facility}") <= 3600


def test_expire_governs_what_clients_publish(store, site):
    short = store.another(expire="10")
    facility = unique()
    publish_and_await_echo(short, facility, "kept for ten seconds")
    assert 1 <= store.redis.ttl(f"broadcast:{facility}") <= 10
    assert site.fetch(facility) == b"kept for ten seconds"


@pytest.mark.parametrize("expire", ["0", "-1"])
def test_without_expire_client_messages_are_not_persisted(store, site, expire):
    passing = store.another(expire=expire)
    facility = unique()
    publish_and_await_echo(passing, facility, "passing")
    assert site.fetch(facility) is None
    assert not store.redis.exists(f"broadcast:{facility}")


@pytest.mark.parametrize("audience", ["user", "group", "session", "nonsense"])
def test_a_client_broadcast_belongs_to_no_other_audience(gateway, site, audience):
    facility = unique()
    publish_and_await_echo(gateway, facility, "for all")
    visitor = UpstreamBrowser(site)
    visitor.post("login", username="john")
    assert visitor.fetch(facility, audience=audience) is None
    assert visitor.fetch(facility, audience="any") == b"for all"


def test_fetch_takes_session_user_group_and_broadcast_in_this_order(store, site):
    visitor = UpstreamBrowser(site)
    key = visitor.post("login", username="john")["session"]
    facility = unique()
    for arguments, message in (
        (["--broadcast"], b"broadcast"),
        (["--group", "chatters"], b"group"),
        (["--user", "john"], b"user"),
        (["--session", key], b"session"),
    ):
        done = store.publish(*arguments, facility, message.decode())
        assert done.returncode == 0, done.stderr.decode()
        assert visitor.fetch(facility) == message
    assert visitor.fetch(facility, audience="user") == b"user"
    assert visitor.fetch(facility, audience="group") == b"group"


def test_a_client_of_a_prefixed_gateway_is_fetched_by_its_own_site(store, site, sites):
    facility = unique()
    publish_and_await_echo(store.another(prefix="demo"), facility, "prefixed")
    assert sites(prefix="demo").fetch(facility) == b"prefixed"
    assert site.fetch(facility) is None


def test_a_redis_subscriber_receives_client_messages_in_order(gateway, recorder):
    facility = unique()
    words = [f"word {number}" for number in range(500)]
    with gateway.connect(facility, FLAGS_WITH_ECHO) as client:
        for word in words:
            client.send(word)
        client.expect(*words)
    assert recorder.received() == [(f"broadcast:{facility}", word.encode()) for word in words]


def test_two_clients_and_django_talk_on_one_facility(gateway, site):
    facility = unique()
    with gateway.connect(facility, "subscribe-broadcast&publish-broadcast") as one, gateway.connect(facility, FLAGS_WITH_ECHO) as two:
        one.send("from one")
        two.expect("from one")
        until(lambda: site.fetch(facility), b"from one", "fetch_message")
        site.publish(facility, "from Django")
        # A client without `echo` does not receive its own message.
        one.expect("from Django")
        two.expect("from Django")
        two.send("from two")
        one.expect("from two")
        two.expect("from two")
