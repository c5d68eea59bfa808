"""Publishing through Sentinel and in a Redis Cluster, with the URLs that the gateway reads."""

import contextlib
import socket
import subprocess
import tempfile
from pathlib import Path

import pytest
import redis
from django.core import checks
from django.test import override_settings
from stores import DEADLINE_SECONDS, ChannelRecorder, UnixRedisServer, wait_for

from ws4redis import connection, groups, identity, server_groups
from ws4redis.doctor import OK, Doctor
from ws4redis.history import names_in_cluster
from ws4redis.publisher import RedisPublisher


def free_port():
    """Returns a port that is free, as is the port of its cluster bus."""
    while True:
        with socket.socket() as first, socket.socket() as second:
            first.bind(("127.0.0.1", 0))
            port = first.getsockname()[1]
            if port > 55_000:
                continue
            with contextlib.suppress(OSError):
                second.bind(("127.0.0.1", port + 10_000))
                return port


@contextlib.contextmanager
def redis_server(*options):
    """Runs a redis-server with these options; yields its port and a client."""
    port = free_port()
    with tempfile.TemporaryDirectory(prefix="ws4redis-") as directory:
        config = Path(directory) / "redis.conf"
        config.write_text(
            "\n".join([f"port {port}", "bind 127.0.0.1", 'save ""', f"dir {directory}", *options])
        )
        command = ["redis-server", str(config)]
        if any(line.startswith("sentinel ") for line in options):
            command.append("--sentinel")
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
        client = redis.Redis(port=port)
        try:
            wait_for(lambda: answers(client), " ".join(command))
            yield port, client
        finally:
            client.close()
            process.terminate()
            process.wait(DEADLINE_SECONDS)


def answers(client):
    with contextlib.suppress(redis.ConnectionError):
        return client.ping()


def is_complete(node):
    about = node.cluster("info")
    return about["cluster_state"] == "ok" and about["cluster_slots_ok"] == "16384"


@pytest.fixture(scope="module")
def cluster():
    """Two nodes with half of the slots each; yields their clients."""
    with (
        redis_server("cluster-enabled yes") as (one, first),
        redis_server("cluster-enabled yes") as (two, second),
    ):
        first.execute_command("CLUSTER ADDSLOTSRANGE 0 8191")
        second.execute_command("CLUSTER ADDSLOTSRANGE 8192 16383")
        first.execute_command("CLUSTER MEET 127.0.0.1", two)
        wait_for(lambda: is_complete(first) and is_complete(second), "the cluster")
        with override_settings(WS4REDIS_CONNECTION={"url": f"redis-cluster://127.0.0.1:{one}"}):
            yield first, second


def test_messages_of_a_cluster_are_kept_at_their_node_and_reach_subscribers_of_each(cluster):
    names = [f"chat-{number}" for number in range(8)]
    recorders = [ChannelRecorder(node, *(f"broadcast:{name}" for name in names)) for node in cluster]
    for name in names:
        RedisPublisher(facility=name, broadcast=True).publish_message(f"to {name}", expire=9)
    for recorder in recorders:
        assert sorted(recorder.received(len(names))) == sorted(f"to {name}" for name in names)
        recorder.close()
    for name in names:
        assert RedisPublisher().fetch_message(None, name) == f"to {name}".encode()
    assert all(node.dbsize() > 0 for node in cluster), "both nodes hold some"


def test_histories_of_a_cluster_are_in_the_slot_of_their_channel(cluster):
    with override_settings(WS4REDIS_HISTORY=["chat-*"]):
        publisher = RedisPublisher(facility="chat-1", broadcast=True, users=["john"])
        publisher.publish_message("first")
        publisher.publish_message("second")
        for audience in ("broadcast", "user:john"):
            kept = [one.message for one in publisher.history("chat-1", audience)]
            assert kept == [b"first", b"second"]
        # Braces in a name may prevent a history; the message is published all the same.
        RedisPublisher(facility="chat-}", broadcast=True).publish_message("third", expire=9)
        assert publisher.history("chat-}") == []
        assert publisher.fetch_message(None, "chat-}") == b"third"


@pytest.mark.parametrize(
    ("prefix", "channel", "key"),
    [
        ("", "broadcast:chat-5", "ws4redis:history:{broadcast:chat-5}"),
        ("site:", "site:broadcast:chat-5", "site:ws4redis:history:{site:broadcast:chat-5}"),
        ("{site}:", "{site}:broadcast:chat-5", "{site}:ws4redis:history:broadcast:chat-5"),
        ("", "broadcast:chat-{5}", "ws4redis:history:broadcast:chat-{5}"),
        ("", "broadcast:chat-{5", "ws4redis:history:{broadcast:chat-{5}"),
        ("", "broadcast:chat-}", None),
        ("", "broadcast:chat-{}", None),
        ("{a:", "{a:broadcast:b}", None),
    ],
)
def test_the_names_in_a_cluster_are_those_of_the_gateway(prefix, channel, key):
    names = names_in_cluster(prefix, channel)
    assert (names and names[0]) == key
    assert names is None or names[1] == key.replace("history", "live", 1)


def test_identities_and_groups_are_written_to_their_node(cluster, people):
    recorder = ChannelRecorder(cluster[1], "ws4redis:control")
    for user in people.values():
        identity.refresh(user)
        assert groups.add(user, "chat") == 1
        assert groups.of(user) == {"chat"}
        assert connection.client().exists(identity.key(str(user.pk)))
    assert all('"groups"' in message for message in recorder.received(len(people)))
    recorder.close()


def test_a_key_that_has_moved_is_followed(cluster):
    name = "broadcast:moved"
    connection.client().set(name, "x")
    calls = []

    def get(client):
        calls.append(client)
        if len(calls) == 1:
            raise redis.exceptions.MovedError(f"{connection.client().keyslot(name)} 127.0.0.1:1")
        return client.get(name)

    assert connection.with_client_of(name, get) == b"x"
    assert len(calls) == 2


def test_sentinel_names_the_server():
    server = UnixRedisServer(free_port())
    try:
        monitor = [f"sentinel monitor mymaster 127.0.0.1 {server.port} 1"]
        with redis_server(*monitor) as (sentinel, _):
            # The first node of the list is not there.
            url = f"redis-sentinel://127.0.0.1:1/3?sentinelServiceName=mymaster&node=127.0.0.1:{sentinel}"
            with override_settings(WS4REDIS_CONNECTION={"url": url}):
                RedisPublisher(facility="foobar", broadcast=True).publish_message("Hello")
                assert RedisPublisher().fetch_message(None, "foobar") == b"Hello"
                assert connection.address_of(connection.pool()) == "Sentinel's mymaster"
        assert server.client.info("keyspace")["db3"]["keys"] == 1
    finally:
        server.stop()


def test_sessions_of_django_redis_are_found_behind_their_sentinels():
    server = UnixRedisServer(free_port())
    try:
        monitor = [f"sentinel monitor mymaster 127.0.0.1 {server.port} 1"]
        with redis_server(*monitor) as (sentinel, _):
            options = {
                "CLIENT_CLASS": "django_redis.client.SentinelClient",
                "CONNECTION_FACTORY": "django_redis.pool.SentinelConnectionFactory",
                "SENTINELS": [("127.0.0.1", 1), ("127.0.0.1", sentinel)],
            }
            cache = {
                "BACKEND": "django_redis.cache.RedisCache",
                "LOCATION": "redis://mymaster/3",
                "OPTIONS": options,
            }
            with override_settings(CACHES={"default": cache}):
                session, findings = Doctor()._store_test_session()
                session.delete()
            assert findings[0].level == OK, findings
            assert findings[0].text.startswith("a session that was just stored is at ")
    finally:
        server.stop()


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        (
            "redis-sentinel://u:ge%40heim@A/2?sentinelServiceName=m&node=b:26380&sentinelPassword=p&node=[::1]",
            (
                False,
                [("a", 26379), ("b", 26380), ("::1", 26379)],
                "m",
                {"username": "u", "password": "ge@heim", "db": 2},
                {"password": "p"},
            ),
        ),
        (
            "rediss-sentinel://a?sentinelServiceName=m&db=3&password=x&sentinelUsername=s",
            (
                False,
                [("a", 26379)],
                "m",
                {"password": "x", "db": 3, "ssl": True},
                {"ssl": True, "username": "s"},
            ),
        ),
        (
            "rediss-cluster://a:7000?node=b&password=geheim",
            (True, [("a", 7000), ("b", 6379)], "", {"password": "geheim", "ssl": True}, {}),
        ),
        ("redis-cluster://", (True, [("localhost", 6379)], "", {}, {})),
    ],
)
def test_urls_are_read_as_by_the_gateway(url, expected):
    group = server_groups.parse(url)
    sentinels = {} if group.is_cluster else group.sentinel_arguments
    assert (group.is_cluster, group.nodes, group.service, group.arguments, sentinels) == expected
    with override_settings(WS4REDIS_CONNECTION={"url": url, "socket_timeout": 1}):
        assert checks.run_checks(tags=["ws4redis"]) == []
