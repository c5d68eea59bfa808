"""`ws4redis.channels` against the layers of channels_redis: the same bytes, on the same servers."""

import asyncio
import json
import re
import sys
import time
from importlib.util import find_spec

import pytest
import redis
from asgiref.sync import async_to_sync
from channels.consumer import AsyncConsumer
from channels.layers import InMemoryChannelLayer, get_channel_layer
from channels_redis.core import RedisChannelLayer
from channels_redis.pubsub import RedisPubSubChannelLayer
from django.conf import settings
from django.core.exceptions import ImproperlyConfigured
from django.test import override_settings
from stores import ChannelRecorder, UnixRedisServer, commands

from ws4redis import channel_layers, channels, testing
from ws4redis.doctor import channel_layer

# Of old releases of channels_redis.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")

EVENTS = [
    {"type": "new_message", "message": {"id": 5, "text": "Grüße", "tags": [], "seen": None, "by": ["john"]}},
    {
        "type": "a.b",
        "": {},
        "numbers": [0, -1, 127, 128, 2**40, -(2**40), 0.5, 1e300],
        "flags": (True, False),
    },
    {"type": "long", "text": "x" * 70_000, "list": list(range(100)), "map": {str(i): i for i in range(40)}},
    {},
]
KEY = "s3cret-key"


@pytest.fixture(scope="module")
def second():
    """Another Redis, for layers with two hosts."""
    server = UnixRedisServer()
    yield server
    server.stop()


def layers(store, kind, *more, backend=None, **config):
    """Returns settings with one layer; `more` are further hosts, `backend` is a subclass of the layer."""
    unknown = {"serializer_format"} | ({"symmetric_encryption_keys"} if kind == "PUBSUB" else set())
    if unknown & set(config) and find_spec("channels_redis.serializers") is None:
        pytest.skip("the release of channels_redis for redis-py 4 has no serializers")
    hosts = [f"unix://{one.connection_pool.connection_kwargs['path']}" for one in (store, *more)]
    # The layers wait for longer than redis-py's own limit.
    hosts = [{"address": host, "socket_timeout": 30} for host in hosts]
    layer = {"BACKEND": backend or getattr(channels, kind), "CONFIG": {"hosts": hosts, **config}}
    return override_settings(CHANNEL_LAYERS={"default": layer})


def run(body):
    """Runs a coroutine function with the layer, and closes the layer's connections."""

    async def running():
        layer = get_channel_layer()
        try:
            return await asyncio.wait_for(body(layer), 30)
        finally:
            await (layer.close_pools() if isinstance(layer, RedisChannelLayer) else layer.flush())

    return asyncio.run(running())


def send_by_layer(group, event):
    run(lambda layer: layer.group_send(group, event))


def mailbox(store, name, count=1):
    """Returns and removes the events of a mailbox, without their random bytes."""
    events = store.zrange(name, 0, -1)
    assert len(events) == count
    assert 0 < store.ttl(name) <= 60
    scores = [score for _, score in store.zrange(name, 0, -1, withscores=True)]
    assert all(abs(score - time.time()) < 30 for score in scores)
    store.delete(name)
    return [event[12:] for event in events]


# ---- The pub/sub layer


@pytest.mark.parametrize("config", [{}, {"prefix": "mysite"}, {"serializer_format": "json"}])
@pytest.mark.parametrize("event", EVENTS)
def test_the_pubsub_layer_gets_the_bytes_of_the_layer(store, config, event):
    channel = f"{config.get('prefix', 'asgi')}__group__chat 5"
    with layers(store, "PUBSUB", **config):
        pubsub = store.pubsub(ignore_subscribe_messages=True)
        pubsub.subscribe(channel)
        pubsub.get_message(timeout=5)
        send_by_layer("chat 5", event)
        assert channels.group_send("chat 5", event) == 1
        assert pubsub.get_message(timeout=5)["data"] == pubsub.get_message(timeout=5)["data"]
        pubsub.close()


@pytest.mark.parametrize("config", [{}, {"symmetric_encryption_keys": [KEY, "old"]}])
def test_members_of_the_pubsub_layer_receive_events(store, config):
    async def receive(layer):
        name = await layer.new_channel()
        await layer.group_add("chat_5", name)
        assert await channels.agroup_send("chat_5", EVENTS[0]) == 1
        return await layer.receive(name)

    with layers(store, "PUBSUB", **config):
        assert run(receive) == EVENTS[0]


def test_the_pubsub_layer_publishes_on_the_server_of_the_layer(store, second):
    with layers(store, "PUBSUB", second.client, serializer_format="json"):
        for number in range(24):
            recorders = [
                ChannelRecorder(one, f"asgi__group__chat_{number}") for one in (store, second.client)
            ]
            send_by_layer(f"chat_{number}", {"type": "a"})
            channels.group_send(f"chat_{number}", {"type": "a"})
            assert sorted(len(recorder.received()) for recorder in recorders) == [0, 2]
            for recorder in recorders:
                recorder.close()


def test_an_event_of_the_pubsub_layer_takes_one_command(store):
    with layers(store, "PUBSUB"), commands(store) as seen:
        channels.group_send("chat_5", {"type": "a"})
        channels.group_send("chat_5", {"type": "a"})
    assert [words[:2] for words in seen] == [["PUBLISH", "asgi__group__chat_5"]] * 2


def test_connections_are_kept(store):
    with layers(store, "PUBSUB"):
        channels.group_send("chat_5", {"type": "a"})
        before = store.info("stats")["total_connections_received"]
        for _ in range(20):
            channels.group_send("chat_5", {"type": "a"})
        assert store.info("stats")["total_connections_received"] == before


# ---- The core layer

# The last two send in steps: the script cannot encrypt, nor evaluate a regular expression.
CORE_CONFIGS = [
    {},
    {"prefix": "mysite", "channel_capacity": {"other*": 1, "gw.?": 5}},
    {"serializer_format": "json"},
    {"channel_capacity": {re.compile("gw"): 5}},
    {"channel_capacity": {"[gh]w*": 5}, "serializer_format": "json"},
]


@pytest.mark.parametrize("config", CORE_CONFIGS)
@pytest.mark.parametrize("event", [*EVENTS, {"type": "a", "__asgi_channel__": "forged"}])
def test_the_core_layer_gets_the_bytes_of_the_layer(store, config, event):
    prefix = config.get("prefix", "asgi")
    members = ["specific.aa!1", "specific.aa!2", "specific.bb!1", "gw.0!chat_5", "plain", "x" * 99 + "!1"]
    names = [prefix + member.partition("!")[0] + "!" * ("!" in member) for member in members]
    now = time.time()
    store.zadd(f"{prefix}:group:chat_5", {member: now + index for index, member in enumerate(members)})
    with layers(store, "CORE", **config):
        send_by_layer("chat_5", event)
        expected = {name: mailbox(store, name) for name in set(names)}
        assert channels.group_send("chat_5", event) == 5
        received = {name: mailbox(store, name) for name in set(names)}
    if config.get("serializer_format") == "json":
        # Redis writes no blanks into JSON.
        received, expected = (
            {name: json.loads(body) for name, [body] in one.items()} for one in (received, expected)
        )
    assert received == expected


@pytest.mark.parametrize("config", [{}, {"symmetric_encryption_keys": [KEY, "old"]}])
def test_members_of_the_core_layer_receive_events_once_each(store, config):
    async def receive(layer):
        names = [await layer.new_channel() for _ in range(3)]
        other = RedisChannelLayer(**settings.CHANNEL_LAYERS["default"]["CONFIG"])
        names.append(await other.new_channel())
        await layer.group_add("chat_5", names[0])
        await layer.group_add("chat_5", names[1])
        await other.group_add("chat_5", names[3])
        assert await channels.agroup_send("chat_5", EVENTS[0]) == 2
        assert await channels.agroup_send("chat_5", EVENTS[1]) == 2
        members = ((layer, names[0]), (layer, names[1]), (other, names[3]))
        received = [(await one.receive(name), await one.receive(name)) for one, name in members]
        await other.close_pools()
        return received

    with layers(store, "CORE", **config):
        for events in run(receive):
            assert events[0] == EVENTS[0]
            # Neither serializer has tuples.
            assert events[1] == {**EVENTS[1], "flags": [True, False]}


def test_the_core_layer_delivers_on_the_servers_of_the_layer(store, second):
    members = [f"specific.{number}!1" for number in range(24)]

    def where():
        found = [sorted(one.keys("asgispecific*")) for one in (store, second.client)]
        for one, names in zip((store, second.client), found):
            one.delete(*names)
        return found

    with layers(store, "CORE", second.client):
        run(lambda layer: asyncio.gather(*(layer.group_add("chat_5", member) for member in members)))
        send_by_layer("chat_5", {"type": "a"})
        expected = where()
        assert all(expected)
        assert channels.group_send("chat_5", {"type": "a"}) == 24
        assert where() == expected
        second.client.flushall()


@pytest.mark.parametrize("more", [{}, {"symmetric_encryption_keys": [KEY]}])
def test_a_full_mailbox_drops_the_event_as_in_the_layer(store, caplog, more):
    caplog.set_level("INFO", "ws4redis")
    capacities = {"gw.*": 3, "small*": 1}
    with layers(store, "CORE", capacity=2, channel_capacity=capacities, **more):
        store.zadd("asgi:group:chat_5", dict.fromkeys(["aa!1", "gw.1!chat_5", "small!1"], time.time()))
        counts = [channels.group_send("chat_5", {"type": "a"}) for _ in range(4)]
        assert counts == [3, 2, 1, 0]
        assert store.zcard("asgiaa!") == 2
        assert store.zcard("asgigw.1!") == 3
        send_by_layer("chat_5", {"type": "a"})
        assert (store.zcard("asgiaa!"), store.zcard("asgigw.1!"), store.zcard("asgismall!")) == (2, 3, 1)
    assert "1 of 3 mailboxes of group chat_5 are full; their processes miss the event" in caplog.text


@pytest.mark.parametrize("more", [{}, {"symmetric_encryption_keys": [KEY]}])
def test_expired_members_and_events_are_removed(store, more):
    now = time.time()
    with layers(store, "CORE", expiry=10, group_expiry=100, capacity=1, **more):
        store.zadd("asgi:group:chat_5", {"dead!1": now - 101, "aa!1": now - 90})
        store.zadd("asgiaa!", {b"old": now - 11})
        assert channels.group_send("chat_5", {"type": "a"}) == 1
        assert store.zrange("asgi:group:chat_5", 0, -1) == [b"aa!1"]
        assert store.zrange("asgiaa!", 0, -1) != [b"old"]
        assert 0 < store.ttl("asgiaa!") <= 10
        assert not store.exists("asgidead!")


def test_an_event_of_the_core_layer_takes_one_command(store):
    with layers(store, "CORE", channel_capacity={"gw.*": 1000}):
        run(lambda layer: layer.group_add("chat_5", "aa!1"))
        channels.group_send("chat_5", {"type": "a"})
        with commands(store) as seen:
            channels.group_send("chat_5", {"type": "a"})
    # MONITOR shows the commands of the script, too.
    within = ("ZREMRANGEBYSCORE", "ZRANGE", "ZCARD", "ZADD", "EXPIRE")
    assert [words[0] for words in seen if words[0] not in within] == ["EVALSHA"]


def test_an_empty_group_costs_nothing_more(store):
    for config in ({}, {"symmetric_encryption_keys": [KEY]}):
        with layers(store, "CORE", **config):
            assert channels.group_send("nobody", {"type": "a"}) == 0
    assert not store.keys("*")


@pytest.mark.parametrize("name", ["", "chat 5", "chat/5", "chat:5", "chät", "chat\n", "a" * 100])
def test_the_core_layer_refuses_names_that_the_layer_refuses(store, name):
    with layers(store, "CORE"), pytest.raises(TypeError, match="characters"):
        channels.group_send(name, {"type": "a"})


# ---- Consumers


class Consumer(AsyncConsumer):
    """Joins a group, and passes on what the group hears."""

    async def test_start(self, message):
        await self.channel_layer.group_add("chat_5", self.channel_name)
        await self.send({"type": "test.joined"})

    async def new_message(self, event):
        await self.send({"type": "test.heard", "message": event["message"]})


@pytest.mark.parametrize("kind", ["CORE", "PUBSUB"])
def test_consumers_hear_the_helper_and_the_layer_alike(store, kind):
    async def hear(layer):
        received, inputs = asyncio.Queue(), asyncio.Queue()
        await inputs.put({"type": "test.start"})
        task = asyncio.ensure_future(Consumer.as_asgi()({"type": "test"}, inputs.get, received.put))
        assert await received.get() == {"type": "test.joined"}
        await layer.group_send("chat_5", {"type": "new_message", "message": 1})
        await channels.agroup_send("chat_5", {"type": "new.message", "message": {"text": "Grüße"}})
        await layer.group_send("chat_5", {"type": "new_message", "message": 3})
        heard = [(await received.get())["message"] for _ in range(3)]
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        return heard

    with layers(store, kind):
        assert run(hear) == [1, {"text": "Grüße"}, 3]


# ---- Settings and errors


def test_a_layer_of_another_kind_is_called_itself():
    async def hear(layer):
        name = await layer.new_channel()
        await layer.group_add("chat_5", name)
        assert await channels.agroup_send("chat_5", {"type": "a"}) == 0
        return await layer.receive(name)

    backend = f"{InMemoryChannelLayer.__module__}.{InMemoryChannelLayer.__name__}"
    with override_settings(CHANNEL_LAYERS={"default": {"BACKEND": backend}}):
        assert run(hear) == {"type": "a"}


class OwnLayer(RedisPubSubChannelLayer):
    """As a site may have it."""


def test_a_subclass_of_a_layer_is_known(store):
    recorder = ChannelRecorder(store, "asgi__group__chat_5")
    with layers(store, "PUBSUB", backend=f"{__name__}.OwnLayer", serializer_format="json"):
        assert channels.group_send("chat_5", {"type": "a"}) == 1
    assert recorder.received(1) == ['{"type": "a"}']
    recorder.close()


def test_a_mistake_in_the_settings_is_named(store, monkeypatch):
    def message(**config):
        with layers(store, "CORE", **config), pytest.raises(ImproperlyConfigured) as error:
            channels.group_send("chat_5", {"type": "a"})
        return str(error.value)

    assert "hosts must be a list" in message(hosts="redis://localhost")
    assert "unexpected keyword argument 'colour'" in message(colour="red")
    assert "serializer_format 'yaml' of CHANNEL_LAYERS is unknown" in message(serializer_format="yaml")
    assert "symmetric_encryption_keys must be a list" in message(symmetric_encryption_keys="key")
    with (
        override_settings(CHANNEL_LAYERS={}),
        pytest.raises(ImproperlyConfigured, match="no layer 'default'"),
    ):
        channels.group_send("chat_5", {"type": "a"})
    monkeypatch.setitem(sys.modules, "cryptography.fernet", None)
    assert "pip install cryptography" in message(symmetric_encryption_keys=["key"])
    monkeypatch.setitem(sys.modules, "msgpack", None)
    assert "pip install msgpack" in message()


def test_hosts_are_given_as_for_the_layers():
    pools = [
        channel_layers.pool_of(host)
        for host in (
            "redis://localhost:7000/3",
            ("localhost", 7001),
            {"host": "localhost", "port": 7002},
            {"address": "redis://localhost:7003", "password": "secret"},
        )
    ]
    assert [pool.connection_kwargs["port"] for pool in pools] == [7000, 7001, 7002, 7003]
    assert pools[3].connection_kwargs["password"] == "secret"
    sentinel = channel_layers.pool_of(
        {"sentinels": [("localhost", 7004)], "master_name": "mymaster", "db": 1}
    )
    assert isinstance(sentinel, redis.sentinel.SentinelConnectionPool)
    assert sentinel.service_name == "mymaster"
    assert channel_layers.hosts_of(None) == [channel_layers.DEFAULT_HOST]


def test_the_doctor_names_the_settings_of_the_gateway(store):
    hosts = ["redis://:secret@localhost:7000/3", {"sentinels": [("localhost", 1)], "master_name": "mymaster"}]
    layer = {"BACKEND": channels.PUBSUB, "CONFIG": {"hosts": hosts, "symmetric_encryption_keys": ["a", "b"]}}
    with override_settings(CHANNEL_LAYERS={"default": layer}):
        assert {name: value for name, value in channel_layer().items() if "channels" in name} == {
            "channels.layer": "pubsub",
            "channels.prefix": "asgi",
            "channels.serializer": "msgpack",
            "channels.hosts": "localhost:7000, Sentinel's mymaster",
            "channels.symmetric_encryption_keys": "2",
        }
    with layers(store, "CORE", prefix="mysite", serializer_format="json"):
        needed = channel_layer()
        assert (needed["channels.layer"], needed["channels.prefix"]) == ("core", "mysite")
    for others in ({}, {"default": {"BACKEND": "channels.layers.InMemoryChannelLayer"}}):
        with override_settings(CHANNEL_LAYERS=others):
            assert "channels.layer" not in channel_layer()
    with override_settings(CHANNEL_LAYERS={"default": {"BACKEND": "nowhere.Layer"}}):
        assert "No module named 'nowhere'" in channel_layer()["channels.layer"]


@pytest.mark.parametrize("event", [None, [], "text", {"type": "a", "x": object()}, {"type": "a", "x": 2**70}])
@pytest.mark.parametrize("kind", ["CORE", "PUBSUB"])
def test_what_cannot_be_an_event_is_refused(store, kind, event):
    with layers(store, kind):
        with pytest.raises(TypeError):
            channels.group_send("chat_5", event)
        with pytest.raises(ValueError, match="group must be a str"):
            channels.group_send(5, {"type": "a"})


def test_a_test_run_captures_events_and_sends_none(store, monkeypatch):
    monkeypatch.setattr(testing, "_live", 0)
    for kind, channel in (("PUBSUB", "asgi__group__chat_5"), ("CORE", "asgi:group:chat_5")):
        recorder = ChannelRecorder(store, "asgi__group__chat_5")
        with layers(store, kind, serializer_format="json"), testing.capture_publications() as captured:
            assert channels.group_send("chat_5", {"type": "a"}) == 0
        assert captured == [testing.Publication(channel, b'{"type": "a"}', 0)]
        assert recorder.received() == []
        recorder.close()


@pytest.mark.parametrize("more", [{}, {"symmetric_encryption_keys": [KEY]}])
def test_a_test_with_redis_does_not_reach_the_visitors_of_the_site(store, more):
    pubsub = store.pubsub()
    pubsub.psubscribe("*asgi__group__chat_5")
    pubsub.get_message(timeout=5)
    store.zadd("asgi:group:chat_5", {"aa!1": time.time()})
    store.zadd("mytests:asgi:group:chat_5", {"bb!1": time.time()})
    with testing.redis_for_tests("mytests"):
        for kind in ("PUBSUB", "CORE"):
            with layers(store, kind, **(more if kind == "CORE" else {})):
                assert channels.group_send("chat_5", {"type": "a"}) == 1
    assert pubsub.get_message(timeout=5)["channel"] == b"mytests:asgi__group__chat_5"
    assert store.exists("mytests:asgibb!")
    assert not store.exists("asgiaa!")
    pubsub.close()


@pytest.mark.parametrize("kind", ["CORE", "PUBSUB"])
def test_an_event_is_many_times_cheaper_than_through_the_layer(store, kind):
    """docs/channels.md has the measured factor; this limit is lower, since tests run at once, and on old releases."""

    def seconds(send, count):
        since = time.process_time()
        for _ in range(count):
            send("chat_5", EVENTS[0])
        return (time.process_time() - since) / count

    with layers(store, kind, capacity=10_000):
        store.zadd("asgi:group:chat_5", {"aa!1": time.time()})
        by_layer = async_to_sync(get_channel_layer().group_send)
        for send in (by_layer, channels.group_send):
            seconds(send, 5)
        assert seconds(by_layer, 30) > 5 * seconds(channels.group_send, 300)
