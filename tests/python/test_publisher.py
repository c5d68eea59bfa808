"""The commands of RedisPublisher."""

import asyncio
import json
import os
import socket
import threading
import time
import warnings
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace
from uuid import UUID

import pytest
import redis
from django.contrib.auth.models import AnonymousUser, Group
from django.db import transaction
from django.test import Client, RequestFactory, override_settings
from django.utils.functional import lazy
from stores import DEADLINE_SECONDS, ChannelRecorder, commands

from ws4redis import connection, context_processors
from ws4redis.publisher import RedisPublisher
from ws4redis.redis_store import SELF, RedisMessage, RedisStore

KEY = "wnqd0gbw5obpnj50zwh6yaq2yz4o8g9x"


class Session(dict):
    """A session as views get it."""

    def __init__(self, key=KEY, **fields):
        super().__init__(fields)
        self.session_key = key


def request_of(username=None, groups=None, key=KEY):
    """Returns a request of this user, or of an anonymous visitor."""
    user = AnonymousUser()
    if username is not None:
        user = SimpleNamespace(is_authenticated=True, get_username=lambda: username)
    session = Session(key)
    if groups is not None:
        session["ws4redis:memberof"] = groups
    return SimpleNamespace(user=user, session=session)


def channels(**arguments):
    """Returns the channels of a publisher with these arguments."""
    return sorted(RedisPublisher(**arguments)._publishers)


def test_a_message_is_persisted_and_then_published_in_one_pipeline(store):
    with commands(store) as seen:
        RedisPublisher(facility="foobar", broadcast=True, users=["mary"]).publish_message(
            RedisMessage("Hello"), 10
        )
    assert seen == [
        ["SETEX", "broadcast:foobar", "10", "Hello"],
        ["PUBLISH", "broadcast:foobar", "Hello"],
        ["SETEX", "user:mary:foobar", "10", "Hello"],
        ["PUBLISH", "user:mary:foobar", "Hello"],
    ]


def test_the_default_of_expire_is_the_setting(store):
    publisher = RedisPublisher(facility="foobar", broadcast=True)
    publisher.publish_message(RedisMessage("Hello"))
    assert store.ttl("broadcast:foobar") == 3600
    with override_settings(WS4REDIS_EXPIRE=7):
        publisher.publish_message(RedisMessage("Hello"))
    assert store.ttl("broadcast:foobar") == 7


@pytest.mark.parametrize("expire", [0, -1, False])
def test_a_message_without_expire_is_published_only(store, expire):
    with commands(store) as seen:
        RedisPublisher(facility="foobar", broadcast=True).publish_message(
            RedisMessage("Hello"), expire=expire
        )
    assert seen == [["PUBLISH", "broadcast:foobar", "Hello"]]


def test_an_expire_of_none_everywhere_means_not_persisted(store):
    with override_settings(WS4REDIS_EXPIRE=None), commands(store) as seen:
        RedisPublisher(facility="foobar", broadcast=True).publish_message("Hello")
    assert seen == [["PUBLISH", "broadcast:foobar", "Hello"]]


def test_subclasses_may_have_an_expire_of_their_own(store):
    class Short(RedisPublisher):
        _expire = 5

    Short(facility="foobar", broadcast=True).publish_message("Hello")
    assert store.ttl("broadcast:foobar") == 5


def test_a_pipeline_is_a_transaction_by_default(store):
    publisher = RedisPublisher(facility="foobar", broadcast=True)
    pair = [["SETEX", "broadcast:foobar", "3600", "Hello"], ["PUBLISH", "broadcast:foobar", "Hello"]]
    with commands(store) as seen:
        publisher.pipeline_publish_message(RedisMessage("Hello"))
    assert seen == [["MULTI"], *pair, ["EXEC"]]
    with commands(store) as seen:
        publisher.pipeline_publish_message(RedisMessage("Hello"), transaction=False)
    assert seen == pair


@pytest.mark.parametrize(
    "message", ["Grüße", "Grüße".encode(), bytearray("Grüße".encode()), lazy(lambda: "Grüße", str)()]
)
def test_text_and_bytes_are_messages(store, message):
    RedisPublisher(facility="foobar", broadcast=True).publish_message(message)
    assert store.get("broadcast:foobar") == "Grüße".encode()


def test_binary_messages_stay_as_they_are(store):
    RedisPublisher(facility="foobar", broadcast=True).publish_message(b"\x00\xff\x01")
    assert store.get("broadcast:foobar") == b"\x00\xff\x01"


def test_values_are_published_as_compact_json(store):
    RedisPublisher(facility="foobar", broadcast=True).publish_json(
        {"id": UUID(int=1), "name": "Jörg", "list": [1, None]}
    )
    expected = '{"id":"00000000-0000-0000-0000-000000000001","name":"Jörg","list":[1,null]}'
    assert store.get("broadcast:foobar").decode() == expected


def test_values_without_a_json_form_are_refused_before_anything_is_sent(store):
    publisher = RedisPublisher(facility="foobar", broadcast=True)
    with commands(store) as seen:
        for value in (float("nan"), [float("inf")], {"a": -float("inf")}, object(), b"x"):
            with pytest.raises(TypeError, match="JSON"):
                publisher.publish_json(value)
    assert seen == []


def test_half_of_a_surrogate_pair_is_escaped(store):
    RedisPublisher(facility="foobar", broadcast=True).publish_json(["Grüße \ud83d", "\\\ud83d"])
    assert store.get("broadcast:foobar") == '["Grüße \\ud83d","\\\\\\ud83d"]'.encode()
    assert json.loads(store.get("broadcast:foobar")) == ["Grüße \ud83d", "\\\ud83d"]


def test_a_heartbeat_that_is_a_number_is_its_text(store):
    publisher = RedisPublisher(facility="foobar", broadcast=True)
    with override_settings(WS4REDIS_HEARTBEAT=1):
        publisher.publish_message("Hello")
        assert RedisMessage("1") is None
        assert context_processors.default(RequestFactory().get("/"))["WS4REDIS_HEARTBEAT"] == '"1"'
    with override_settings(WS4REDIS_HEARTBEAT=False):
        assert RedisMessage("False") == b"False"
        assert context_processors.default(RequestFactory().get("/"))["WS4REDIS_HEARTBEAT"] == "null"


def test_more_publications_at_a_time_than_connections_wait_for_each_other(store):
    publisher = RedisPublisher(facility="foobar", broadcast=True)
    before = store.info("clients")["connected_clients"]
    barrier = threading.Barrier(2 * connection.MAX_CONNECTIONS)

    def publish(number):
        barrier.wait(DEADLINE_SECONDS)
        return publisher.publish_message(str(number))

    with ThreadPoolExecutor(2 * connection.MAX_CONNECTIONS) as threads:
        results = list(threads.map(publish, range(2 * connection.MAX_CONNECTIONS)))
    assert results == [0] * 2 * connection.MAX_CONNECTIONS
    assert store.info("clients")["connected_clients"] - before <= connection.MAX_CONNECTIONS


def test_the_number_of_receivers_is_returned(store):
    publisher = RedisPublisher(facility="foobar", broadcast=True, users=["john", "mary"])
    assert publisher.publish_message("Hello") == 0
    recorders = [
        ChannelRecorder(store, "broadcast:foobar", "user:john:foobar"),
        ChannelRecorder(store, "user:john:foobar"),
    ]
    assert publisher.publish_message("Hello") == 3
    assert publisher.publish_message("Hello", expire=0) == 3
    assert publisher.pipeline_publish_message("Hello") == 3
    for recorder in recorders:
        recorder.close()


def test_a_publisher_without_an_audience_sends_nothing_and_warns(store):
    publish = RedisPublisher(facility="foobar").publish_message
    with (
        commands(store) as seen,
        pytest.warns(RuntimeWarning, match="RedisPublisher has no audience") as warned,
    ):
        assert publish("Hello") == 0
    assert seen == []
    assert warned[0].filename == __file__, "the warning names the caller"


@pytest.mark.parametrize("argument", ["users", "groups", "sessions"])
def test_an_audience_that_is_empty_today_sends_nothing_without_a_warning(store, argument):
    with commands(store) as seen:
        assert RedisPublisher(facility="foobar", **{argument: []}).publish_message("Hello") == 0
    assert seen == []


def test_async_views_publish_and_fetch(store):
    async def use_publisher():
        publisher = RedisPublisher(facility="foobar", broadcast=True)
        receivers = await publisher.apublish_message("Hello")
        await publisher.apublish_json([1], expire=4)
        return receivers, await publisher.afetch_message(None, "foobar")

    assert asyncio.run(use_publisher()) == (0, b"[1]")
    assert store.ttl("broadcast:foobar") == 4


def test_an_async_view_publishes_through_the_site(people, store):
    assert Client().get("/async/?message=Hello").content == b"0 receivers"
    assert store.get("broadcast:foobar") == b"Hello"


def test_a_message_waits_for_the_commit(people, store):
    recorder = ChannelRecorder(store, "broadcast:foobar")
    with transaction.atomic():
        RedisPublisher(facility="foobar", broadcast=True).publish_message_on_commit("Hello")
        assert recorder.received() == []
    assert recorder.received(1) == ["Hello"]
    with pytest.raises(ZeroDivisionError), transaction.atomic():
        RedisPublisher(facility="foobar", broadcast=True).publish_message_on_commit("never")
        raise ZeroDivisionError
    RedisPublisher(facility="foobar", broadcast=True).publish_message_on_commit("without a transaction")
    assert recorder.received(1) == ["without a transaction"]
    with transaction.atomic():
        value = {"unread": 3}
        RedisPublisher(facility="foobar", broadcast=True).publish_json_on_commit(value)
        value["unread"] = 4
        assert recorder.received() == []
    assert recorder.received(1) == ['{"unread":3}']
    with pytest.raises(TypeError, match="JSON"), transaction.atomic():
        RedisPublisher(facility="foobar", broadcast=True).publish_json_on_commit(object())
    with pytest.raises(TypeError, match="message"), transaction.atomic():
        RedisPublisher(facility="foobar", broadcast=True).publish_message_on_commit(1)
    recorder.close()


# ---- Channels --------------------------------------------------------------------------------------------------------


def test_channels_have_audience_name_and_facility():
    assert channels(
        facility="foobar", broadcast=True, users=["john"], groups=("red team",), sessions=[KEY]
    ) == [
        "broadcast:foobar",
        "group:red team:foobar",
        f"session:{KEY}:foobar",
        "user:john:foobar",
    ]


def test_the_prefix_gets_one_colon():
    for prefix, expected in ((None, ""), ("", ""), ("demo", "demo:"), ("a:", "a::")):
        with override_settings(WS4REDIS_PREFIX=prefix):
            assert channels(facility="foobar", broadcast=True) == [f"{expected}broadcast:foobar"]
            assert RedisStore.get_prefix() == expected


def test_the_default_facility_is_that_of_upstream_with_a_warning():
    with pytest.warns(RuntimeWarning, match="RedisPublisher has no facility") as warned:
        publisher = RedisPublisher(broadcast=True)
    assert publisher._publishers == {"broadcast:{facility}"}
    assert warned[0].filename == __file__, "the warning names the caller"
    assert channels(facility="{facility}", broadcast=True) == ["broadcast:{facility}"]


@pytest.mark.parametrize(
    ("facility", "name"),
    [(5, "5"), (UUID(int=1), str(UUID(int=1))), (lazy(lambda: "é", str)(), "é"), ("", "")],
)
def test_a_facility_is_named_by_its_text(facility, name):
    assert channels(facility=facility, broadcast=True) == [f"broadcast:{name}"]


def test_names_come_from_any_iterable_once():
    assert channels(facility="f", users={"john": 1}.keys()) == ["user:john:f"]
    assert channels(facility="f", users=(name for name in ["john", "mary", "john"])) == [
        "user:john:f",
        "user:mary:f",
    ]
    assert channels(facility="f", users=[5, UUID(int=1)]) == [f"user:{UUID(int=1)}:f", "user:5:f"]


def test_users_and_groups_are_accepted_as_objects(people):
    names = channels(facility="f", users=[people["john"]], groups=Group.objects.filter(name="red team"))
    assert names == ["group:red team:f", "user:john:f"]


def test_self_stands_for_the_requests_user_groups_and_session():
    request = request_of("john", ["chatusers", "red team"])
    assert channels(request=request, facility="f", users=[SELF, "mary"], groups=[SELF], sessions=[SELF]) == [
        "group:chatusers:f",
        "group:red team:f",
        f"session:{KEY}:f",
        "user:john:f",
        "user:mary:f",
    ]
    assert channels(request=request_of("john"), facility="f", groups=[SELF]) == []


@pytest.mark.parametrize("argument", ["users", "groups", "sessions"])
def test_self_without_a_request_is_an_error(argument):
    with pytest.raises(ValueError, match=f"{argument} contains SELF without a request"):
        RedisPublisher(facility="f", **{argument: [SELF]})


@pytest.mark.parametrize("argument", ["users", "groups"])
def test_self_of_an_anonymous_visitor_is_an_error(argument):
    with pytest.raises(ValueError, match=f"{argument} contains SELF, but the visitor is not logged in"):
        RedisPublisher(request=request_of(), facility="f", **{argument: [SELF]})


def test_self_of_a_session_without_a_key_is_an_error():
    with pytest.raises(ValueError, match="sessions contains SELF, but this request has no session key"):
        RedisPublisher(request=request_of("john", key=None), facility="f", sessions=[SELF])


def test_true_and_single_names_still_work_with_a_warning():
    request = request_of("john", ["red team"])
    for arguments, expected in (
        ({"users": True}, ["user:john:f"]),
        ({"groups": True}, ["group:red team:f"]),
        ({"sessions": True}, [f"session:{KEY}:f"]),
        ({"users": "mary"}, ["user:mary:f"]),
        ({"groups": "blue team"}, ["group:blue team:f"]),
        ({"sessions": "k"}, ["session:k:f"]),
    ):
        with pytest.warns(DeprecationWarning, match=next(iter(arguments))) as warned:
            publisher = RedisPublisher(request=request, facility="f", **arguments)
        assert sorted(publisher._publishers) == expected
        assert warned[0].filename == __file__, "the warning names the caller"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert (
            channels(request=request_of(key=None), facility="f", users=True, groups=True, sessions=True) == []
        )
    assert channels(facility="f", users=False, groups=False, sessions=False) == []


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ({"users": 5}, "users must be a list of names, not int"),
        ({"users": b"john"}, "users must be a list of names, not bytes"),
        ({"groups": {"a": 1}}, "groups must be a list of names, not dict"),
        ({"groups": [None]}, "groups must contain names, not NoneType"),
        ({"sessions": [b"key"]}, "sessions must contain names, not bytes"),
        ({"users": [True]}, "users must contain names, not bool"),
        ({"broadcast": 1}, "broadcast must be True or False, not int"),
        ({"facility": b"f"}, "facility must be a str, not bytes"),
        ({"facility": None, "broadcast": True}, "facility must be a str, not NoneType"),
        ({"facility": True}, "facility must be a str, not bool"),
        ({"audience": "x"}, "audience"),
    ],
)
def test_wrong_arguments_are_named(arguments, expected):
    with pytest.raises(TypeError, match=expected):
        RedisPublisher(**arguments)


@pytest.mark.parametrize(
    ("message", "expire", "expected"),
    [
        (None, 1, "message must be .* not NoneType: RedisMessage"),
        ({"a": 1}, 1, "message must be .* not dict; use publish_json"),
        (5, 1, "message must be .* not int"),
        ("Hello", 1.5, "expire must be an int .* not float"),
        ("Hello", "10", "expire must be an int .* not str"),
        ("Hello", True, "expire must be an int .* not bool"),
    ],
)
def test_wrong_messages_are_refused_before_anything_is_sent(store, message, expire, expected):
    publisher = RedisPublisher(facility="foobar", broadcast=True)
    with commands(store) as seen:
        for publish in (publisher.publish_message, publisher.pipeline_publish_message):
            with pytest.raises(TypeError, match=expected):
                publish(message, expire)
        # The exception of django-websocket-redis.
        with pytest.raises(ValueError, match=expected):
            publisher.publish_message(message, expire)
    assert seen == []


# ---- RedisMessage ----------------------------------------------------------------------------------------------------


def test_messages_are_bytes_or_none():
    assert RedisMessage("é") == b"\xc3\xa9"
    assert isinstance(RedisMessage("é"), bytes)
    assert RedisMessage(bytearray(b"x")) == b"x"
    assert RedisMessage("") == b""
    assert RedisMessage([b"message", b"channel", b"data"]) == b"data"
    for other in ({}, 1, None, [b"subscribe", b"channel", 1], []):
        assert RedisMessage(other) is None


def test_the_heartbeat_is_no_message():
    assert RedisMessage("--heartbeat--") is None
    assert RedisMessage(b"--heartbeat--") is None
    with pytest.raises(ValueError, match="WS4REDIS_HEARTBEAT"):
        RedisPublisher(facility="f", broadcast=True).publish_message("--heartbeat--")
    with override_settings(WS4REDIS_HEARTBEAT=None):
        assert RedisMessage("--heartbeat--") == b"--heartbeat--"


# ---- fetch_message ---------------------------------------------------------------------------------------------------


def test_fetching_reads_the_session_the_user_the_groups_and_the_broadcast(store):
    store.set("broadcast:f", "for all")
    with commands(store) as seen:
        message = RedisPublisher().fetch_message(request_of("john", ["a", "b"]), "f")
    assert message == b"for all"
    assert seen == [
        ["GET", name] for name in (f"session:{KEY}:f", "user:john:f", "group:a:f", "group:b:f", "broadcast:f")
    ]


@pytest.mark.parametrize(
    ("audience", "expected"),
    [
        ("user", b"user"),
        ("group", b"group"),
        ("session", b"session"),
        ("broadcast", b"all"),
        ("any", b"session"),
        ("x", None),
    ],
)
def test_fetching_from_one_audience(store, audience, expected):
    for name, value in (
        ("user:john", "user"),
        ("group:a", "group"),
        (f"session:{KEY}", "session"),
        ("broadcast", "all"),
    ):
        store.set(f"{name}:f", value)
    assert RedisPublisher().fetch_message(request_of("john", ["a"]), "f", audience) == expected


def test_fetching_without_a_visitor_reads_the_broadcast_only(store):
    for request in (None, request_of(key=None), SimpleNamespace()):
        with commands(store) as seen:
            assert RedisPublisher().fetch_message(request, "f") is None
        assert seen == [["GET", "broadcast:f"]]


# ---- Connections -----------------------------------------------------------------------------------------------------


def test_publishers_share_one_connection(store):
    RedisPublisher(facility="f", broadcast=True).publish_message("Hello")
    before = store.info("stats")["total_connections_received"]
    for _ in range(20):
        RedisPublisher(facility="f", broadcast=True).publish_message("Hello")
    assert store.info("stats")["total_connections_received"] == before


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_forked_process_has_a_connection_of_its_own(store):
    publisher = RedisPublisher(facility="f", broadcast=True)
    mine = publisher._connection.client_id()
    recorder = ChannelRecorder(store, "broadcast:f")
    with warnings.catch_warnings():
        # Python 3.12 and later warn about a fork while threads of other tests run.
        warnings.simplefilter("ignore", DeprecationWarning)
        child = os.fork()
    if child == 0:
        try:
            theirs = [RedisPublisher()._connection.client_id(), publisher._connection.client_id()]
            RedisPublisher(facility="f", broadcast=True).publish_message("child")
            os._exit(0 if mine not in theirs else 1)
        finally:
            os._exit(2)
    assert os.waitpid(child, 0)[1] == 0
    assert recorder.received(1) == ["child"]
    assert publisher._connection.client_id() == mine
    recorder.close()


def test_a_connection_that_redis_has_closed_is_replaced(store):
    publisher = RedisPublisher(facility="f", broadcast=True)
    publisher.publish_message("Hello")
    store.execute_command("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
    publisher.publish_message("again")
    assert store.get("broadcast:f") == b"again"


def test_an_unreachable_or_hanging_redis_raises_within_the_timeout(store):
    publisher = RedisPublisher(facility="f", broadcast=True)
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        port = silent.getsockname()[1]
        for error in (redis.ConnectionError, redis.TimeoutError):
            with override_settings(
                WS4REDIS_CONNECTION={"host": "127.0.0.1", "port": port, "socket_timeout": 0.3}
            ):
                publisher = RedisPublisher(facility="f", broadcast=True)
                since = time.monotonic()
                with pytest.raises(error):
                    publisher.publish_message("Hello")
                assert time.monotonic() - since < 2
            # From now on the server accepts connections and never answers.
            silent.listen()


def test_connections_by_url_by_socket_and_by_port(store):
    from conftest import SERVER

    from ws4redis import connection

    plain = {"host": "localhost", "port": 6379, "db": 0, "password": None, "unix_socket_path": SERVER.path}
    for arguments in (
        {"unix_socket_path": SERVER.path},
        plain,
        {"url": f"unix:{SERVER.path}"},
        {"url": SERVER.url},
    ):
        with override_settings(WS4REDIS_CONNECTION=arguments):
            RedisPublisher(facility="f", broadcast=True).publish_message("Hello")
            connection.pool().disconnect()
    with override_settings(WS4REDIS_CONNECTION={"host": "h", "port": 1, "ssl": True}):
        made = connection.pool()
        assert made.connection_class.__name__ == "SSLConnection"
        assert made.connection_kwargs["socket_timeout"] < DEADLINE_SECONDS
    with override_settings(WS4REDIS_CONNECTION={"url": "rediss://h:1/3", "socket_timeout": 1}):
        assert connection.pool().connection_kwargs["db"] == 3
        assert connection.pool().connection_kwargs["socket_timeout"] == 1


def test_the_pool_keeps_its_name():
    from ws4redis import publisher

    assert publisher.redis_connection_pool is publisher.RedisPublisher()._connection.connection_pool
    with pytest.raises(AttributeError):
        _ = publisher.no_such_name
