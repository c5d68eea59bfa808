"""The real layers of channels_redis on one side, and pages of the gateway on the other."""

import asyncio
import json

import harness
import pytest
from harness import Gateway, RedisServer, unique, until

KEY = "s3cret-key"
EVENT = {
    "type": "new_message",
    "message": {
        "text": "héllo",
        "n": 1,
        "big": 1 << 40,
        "f": 1.5,
        "t": True,
        "none": None,
        "list": [1, "a"],
    },
}
RULES = """
[[channels.groups]]
facility = ["event"]
audience = "broadcast"
group = "chat_5"

[[channels.groups]]
facility = ["other"]
audience = "broadcast"
group = "room-1"
deliver = "message"

[[channels.publish]]
facility = ["event"]
to = "channel:incoming"
type = "page.message"

[[channels.publish]]
facility = ["other"]
to = "group:consumers"
type = "page.message"
"""


@pytest.fixture(scope="module")
def servers():
    started = [RedisServer(), RedisServer()]
    yield started
    for server in started:
        server.stop()


def layer_of(kind, serializer, encrypted, urls):
    """Return a layer as Django's CHANNEL_LAYERS configures it."""
    from channels_redis.core import RedisChannelLayer
    from channels_redis.pubsub import RedisPubSubChannelLayer

    config = {"hosts": urls, "symmetric_encryption_keys": [KEY] if encrypted else None}
    if kind == "core":
        return RedisChannelLayer(serializer_format=serializer, **config)
    return RedisPubSubChannelLayer(serializer_format=serializer, **config)


CASES = [
    (kind, serializer, encrypted, hosts)
    for kind in ("core", "pubsub")
    for serializer, encrypted, hosts in [
        ("msgpack", False, 1),
        ("json", False, 1),
        ("msgpack", True, 1),
        ("json", True, 2),
        ("msgpack", False, 2),
    ]
]


@pytest.mark.parametrize(("kind", "serializer", "encrypted", "hosts"), CASES)
def test_pages_hear_groups_and_django_hears_pages(
    kind, serializer, encrypted, hosts, servers, tmp_path
):
    urls = [f"{server.url}/1" for server in servers[:hosts]]
    file = tmp_path / "settings.toml"
    keys = [KEY] if encrypted else []
    file.write_text(
        f'[channels]\nenabled = true\nlayer = "{kind}"\nserializer = "{serializer}"\n'
        f"hosts = {json.dumps(urls)}\nsymmetric_encryption_keys = {json.dumps(keys)}\n{RULES}"
    )
    # With a prefix of its own, it replays no message of another case.
    gateway = Gateway(file=file, redis__url=f"{servers[0].url}/0", prefix=unique())
    flags = "subscribe-broadcast&publish-broadcast"
    try:
        with gateway.connect("event", flags) as event, gateway.connect("other", flags) as other:

            async def talk():
                layer = layer_of(kind, serializer, encrypted, urls)
                consumer = await layer.new_channel()
                await layer.group_add("consumers", consumer)
                waiting = asyncio.create_task(layer.receive("incoming"))
                # The pubsub layer subscribes to a channel when it is first received from.
                await asyncio.sleep(0)
                await layer.group_send("chat_5", EVENT)
                await layer.group_send("room-1", {"type": "x", "message": "hi"})
                assert json.loads(await asyncio.to_thread(event.receive)) == EVENT
                assert await asyncio.to_thread(other.receive) == "hi"
                if kind == "pubsub":
                    # A general channel has no subscriber before; its server is that of its name.
                    await asyncio.to_thread(wait_for_subscriber, servers[:hosts])
                event.send("to a worker")
                for_worker = await asyncio.wait_for(waiting, harness.DEADLINE)
                other.send("to consumers")
                for_consumer = await asyncio.wait_for(layer.receive(consumer), harness.DEADLINE)
                await close(layer)
                return for_worker, for_consumer

            for_worker, for_consumer = asyncio.run(talk())
    finally:
        gateway.stop()
    whom = {"type": "page.message", "user": None, "session": None}
    assert for_worker == whom | {"text": "to a worker", "facility": "event"}
    assert for_consumer == whom | {"text": "to consumers", "facility": "other"}


def wait_for_subscriber(servers):
    import redis

    clients = [redis.Redis.from_url(server.url) for server in servers]
    until(
        lambda: sum(count for client in clients for _, count in client.pubsub_numsub("incoming")),
        bool,
        "a subscriber",
    )


async def close(layer):
    """Close the connections of a layer."""
    if hasattr(layer, "close_pools"):
        await layer.close_pools()
    else:
        await layer.flush()
