"""Django publishes with the package's own RedisPublisher, and browsers receive."""

import base64

import pytest

from harness import PubSubRecorder, unique, until
from visitors import UpstreamBrowser

DAYS = 1209600


def test_an_unmodified_django_publishes_to_two_tabs(gateway, visitor):
    facility = unique()
    with gateway.connect(facility) as one, gateway.connect(facility, "subscribe-broadcast&publish-broadcast") as two:
        assert visitor.get(f"/hello/{facility}") == "published"
        one.expect("Hello")
        two.expect("Hello")


def test_a_broadcast_reaches_its_own_facility_only(gateway, site):
    here, there = unique(), unique()
    with gateway.connect(here) as listener, gateway.connect(there) as other:
        site.publish(here, "for here")
        listener.expect("for here")
        other.expect_nothing_before(lambda marker: site.publish(there, marker))


@pytest.mark.parametrize(
    "facility, path",
    [("fé", "f%C3%A9"), ("a b", "a%20b"), ("a/b", "a/b"), ("a/b", "a%2Fb"), ("a:b", "a:b"), ("日本", "%E6%97%A5%E6%9C%AC")],
)
def test_both_sides_spell_facilities_alike(gateway, site, facility, path):
    message = unique("message")
    own = unique()
    with gateway.connect(f"{own}{path}") as listener:
        site.publish(f"{own}{facility}", message)
        listener.expect(message)


@pytest.mark.parametrize(
    "payload, frame",
    [
        ("Grüße, 日本 🎈", "Grüße, 日本 🎈"),
        (b"\xff\x00 no UTF-8", b"\xff\x00 no UTF-8"),
        ("line\nline\x00", "line\nline\x00"),
        ("x" * 300_000, "x" * 300_000),
    ],
    ids=["text", "binary", "control", "large"],
)
def test_payloads_arrive_byte_for_byte(gateway, site, payload, frame):
    facility = unique()
    with gateway.connect(facility) as listener:
        site.publish(facility, payload)
        listener.expect(frame)
    with gateway.connect(facility) as late:
        late.expect(frame)


def test_an_empty_message_is_neither_relayed_nor_replayed_nor_fetched(gateway, site):
    facility = unique()
    with gateway.connect(facility) as listener:
        site.publish(facility, "")
        assert site.fetch(facility) is None
        with gateway.connect(facility) as late:
            site.publish(facility, "later")
            listener.expect("later")
            late.expect("later")


def test_a_message_from_django_is_replayed_before_live_ones(gateway, site):
    facility = unique()
    site.publish(facility, "first")
    site.publish(facility, "second")
    with gateway.connect(facility) as late:
        late.expect("second")
        site.publish(facility, "third")
        late.expect("third")


@pytest.mark.parametrize(
    "wanted, seconds", [({}, 3600), ({"expire": 10}, 10), ({"expire": 0}, None), ({"expire": -1}, None)]
)
def test_expire_sets_the_lifetime_of_a_persisted_message(gateway, site, store, wanted, seconds):
    facility = unique()
    with gateway.connect(facility) as listener:
        site.publish(facility, "message", **wanted)
        listener.expect("message")
    ttl = store.redis.ttl(f"broadcast:{facility}")
    if seconds is None:
        assert ttl == -2, "nothing is kept"
        with gateway.connect(facility) as late:
            late.expect_nothing_before(lambda marker: site.publish(facility, marker))
    else:
        assert seconds - 9 <= ttl <= seconds
        with gateway.connect(facility) as late:
            late.expect("message")


def test_an_expired_message_is_not_replayed(gateway, site, store):
    facility = unique()
    site.publish(facility, "short", expire=3)
    with gateway.connect(facility) as early:
        early.expect("short")
    until(lambda: store.redis.exists(f"broadcast:{facility}"), 0, "expiry")
    with gateway.connect(facility) as late:
        late.expect_nothing_before(lambda marker: site.publish(facility, marker))


def test_a_message_without_expire_leaves_the_kept_one(gateway, site):
    facility = unique()
    site.publish(facility, "kept", expire=60)
    site.publish(facility, "passing", expire=0)
    with gateway.connect(facility) as late:
        late.expect("kept")


def test_a_prefix_separates_sites(store, gateway, site, sites):
    facility = unique()
    demo = sites(prefix="demo")
    prefixed = store.another(prefix="demo")
    with prefixed.connect(facility) as inside, gateway.connect(facility) as outside:
        demo.publish(facility, "for the demo")
        inside.expect("for the demo")
        outside.expect_nothing_before(lambda marker: site.publish(facility, marker))
        inside.expect_nothing_before(lambda marker: demo.publish(facility, marker))
    assert store.redis.get(f"demo:broadcast:{facility}") is not None


def test_the_heartbeat_of_a_site_is_not_a_message(store, sites):
    beating = sites(heartbeat="--heartbeat--")
    gateway = store.another(heartbeat="--heartbeat--")
    facility = unique()
    with gateway.connect(facility, "subscribe-broadcast&publish-broadcast&echo") as client:
        with pytest.raises(AssertionError, match="the message is a heartbeat"):
            beating.publish(facility, "--heartbeat--")
        client.send("--heartbeat--")
        client.expect("--heartbeat--")
        assert beating.fetch(facility) is None, "a client's heartbeat is not published"
        client.send("a message")
        until(client.receive, "a message", "the message, possibly after further heartbeats")


@pytest.mark.parametrize("transaction", [True, False], ids=["multi", "plain"])
def test_a_pipeline_of_a_publisher_arrives_whole_and_in_order(gateway, site, transaction):
    facility = unique()
    messages = [f"{number}" for number in range(2000)]
    with gateway.connect(facility) as one, gateway.connect(facility) as two:
        site.post("pipeline", facility=facility, broadcast=True, messages=messages, transaction=transaction)
        one.expect(*messages)
        two.expect(*messages)
    with gateway.connect(facility) as late:
        late.expect(messages[-1])


# ---- Names of channels and keys of users, groups, sessions ------------------------------------------------------------

KEY = "wnqd0gbw5obpnj50zwh6yaq2yz4o8g9x"


@pytest.mark.parametrize(
    "wanted, arguments, channels",
    [
        ({"broadcast": True}, ["--broadcast"], ["broadcast:{f}"]),
        ({"users": ["john"]}, ["--user", "john"], ["user:john:{f}"]),
        (
            {"users": ["john", "mary"]},
            ["--user", "john", "--user", "mary"],
            ["user:john:{f}", "user:mary:{f}"],
        ),
        ({"users": ["jörg@example.com"]}, ["--user", "jörg@example.com"], ["user:jörg@example.com:{f}"]),
        (
            {"groups": ["chatters", "red team"]},
            ["--group", "chatters", "--group", "red team"],
            ["group:chatters:{f}", "group:red team:{f}"],
        ),
        ({"sessions": [KEY]}, ["--session", KEY], [f"session:{KEY}:{{f}}"]),
        (
            {"broadcast": True, "users": ["john"], "groups": ["chatters"], "sessions": [KEY]},
            ["--broadcast", "--user", "john", "--group", "chatters", "--session", KEY],
            ["broadcast:{f}", "group:chatters:{f}", f"session:{KEY}:{{f}}", "user:john:{f}"],
        ),
    ],
    ids=["broadcast", "user", "users", "unicode", "groups", "session", "all"],
)
@pytest.mark.parametrize("expire", [None, 10, 0])
def test_django_and_the_command_line_name_channels_and_keys_alike(store, site, recorder, wanted, arguments, channels, expire):
    facility = unique()
    expected = sorted((channel.format(f=facility), b"message") for channel in channels)
    keys = [channel for channel, _ in expected]

    def kept():
        found = {key: (store.redis.get(key), store.redis.ttl(key)) for key in keys}
        store.redis.delete(*keys)
        return found

    def check(found):
        for key, (value, ttl) in found.items():
            if expire == 0:
                assert (value, ttl) == (None, -2), key
            else:
                wanted_ttl = 3600 if expire is None else expire
                assert value == b"message" and wanted_ttl - 9 <= ttl <= wanted_ttl, (key, value, ttl)

    site.publish(facility, "message", **({"broadcast": False} | wanted), **({} if expire is None else {"expire": expire}))
    # The order of the channels is arbitrary.
    assert sorted(recorder.received()) == expected
    check(kept())

    limit = [] if expire is None else ["--expire", str(expire)]
    done = store.publish(*arguments, *limit, facility, "message")
    assert done.returncode == 0, done.stderr.decode()
    assert sorted(recorder.received()) == expected
    check(kept())


def test_self_publishes_to_the_names_that_the_gateway_uses(store, site, recorder):
    for name in ("john", "jörg"):
        visitor = UpstreamBrowser(site)
        key = visitor.post("login", username=name)["session"]
        facility = unique()
        message = base64.b64encode(b"to myself").decode()
        visitor.post(
            "publish", facility=facility, base64=message, users=["SELF"], groups=["SELF"], sessions=["SELF"]
        )
        by_django = sorted(recorder.received())
        assert len(by_django) == 4
        done = store.publish(
            *["--user", name, "--group", "chatters", "--group", "red team", "--session", key],
            *[facility, "to myself"],
        )
        assert done.returncode == 0, done.stderr.decode()
        assert sorted(recorder.received()) == by_django


def test_the_prefix_of_the_command_line_is_djangos(store, sites, recorder):
    facility = unique()
    sites(prefix="demo").publish(facility, "message", users=["john"])
    by_django = sorted(recorder.received())
    assert by_django == [(f"demo:broadcast:{facility}", b"message"), (f"demo:user:john:{facility}", b"message")]
    done = store.publish("--broadcast", "--user", "john", facility, "message", prefix="demo")
    assert done.returncode == 0, done.stderr.decode()
    assert sorted(recorder.received()) == by_django


def test_an_anonymous_client_receives_no_message_for_others(gateway, site):
    facility = unique()
    flags = "subscribe-broadcast&subscribe-user&subscribe-group&subscribe-session"
    with gateway.connect(facility, flags) as anonymous:
        site.publish(facility, "private", broadcast=False, users=["john"], groups=["chatters"], sessions=[KEY])
        anonymous.expect_nothing_before(lambda marker: site.publish(facility, marker))


def test_the_command_line_publishes_from_standard_input(store, gateway, site):
    facility = unique()
    with gateway.connect(facility) as listener:
        done = store.publish("--broadcast", facility, "-", text="from a pipe".encode())
        assert done.returncode == 0, done.stderr.decode()
        listener.expect("from a pipe")
        assert site.fetch(facility) == b"from a pipe"


# ---- The site's sessions ---------------------------------------------------------------------------------------------


def test_a_sites_sessions_live_in_the_same_store(store, site):
    visitor = UpstreamBrowser(site)
    key = visitor.post("login", username="john")["session"]
    found = [name for name in store.redis.keys("*") if key.encode() in name]
    assert found == [f":1:django.contrib.sessions.cache{key}".encode()]
    assert DAYS - 9 <= store.redis.ttl(found[0]) <= DAYS


def test_a_publisher_without_an_audience_publishes_nothing(store, site):
    recorder = PubSubRecorder(store.redis)
    try:
        facility = unique()
        site.publish(facility, "x", broadcast=False)
        assert recorder.received() == []
    finally:
        recorder.close()
