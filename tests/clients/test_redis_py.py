"""redis-py with RESP2 and RESP3."""

import asyncio
from pathlib import Path

import pytest
import redis
import redis.asyncio

from harness import EMBEDDED_PORT, unique, until


def test_info_identifies_the_embedded_store(client):
    info = client.info()
    assert info["redis_version"]
    assert "embedded_store" in info


def test_strings_expire_as_requested(client):
    assert client.set("a", "1", ex=100) and client.get("a") == "1"
    assert 90 <= client.ttl("a") <= 100
    assert 90_000 <= client.pttl("a") <= 100_000
    assert client.expire("a", 1000) and 990 <= client.ttl("a") <= 1000
    assert client.pexpire("a", 50_000) and 40 <= client.ttl("a") <= 50
    assert client.persist("a") and client.ttl("a") == -1
    assert client.setex("a", 20, "2") and 10 <= client.ttl("a") <= 20
    assert client.set("a", "3", keepttl=True) and client.ttl("a") > 0
    assert client.set("a", "4") and client.ttl("a") == -1
    assert client.ttl("missing") == -2
    assert client.psetex("short", 30, "x")
    until(lambda: client.get("short"), None, "expiry")
    assert client.exists("short") == 0
    assert client.getex("a", ex=60) == "4" and client.ttl("a") > 0
    assert client.getdel("a") == "4" and client.get("a") is None


def test_nx_and_xx(client):
    assert client.set("a", "1", xx=True) is None
    assert client.set("a", "1", nx=True) is True
    assert client.set("a", "2", nx=True) is None
    assert client.setnx("a", "2") is False
    assert client.set("a", "3", xx=True) is True
    assert client.set("a", "4", get=True) == "3"
    assert client.get("a") == "4"


def test_numbers(client):
    assert client.incr("n", 5) == 5
    assert client.decr("n") == 4
    client.set("word", "x")
    with pytest.raises(redis.ResponseError, match="not an integer"):
        client.incr("word")


def test_many_keys(client):
    assert client.mset({"x": 1, "y": 2})
    assert client.mget("x", "y", "z") == ["1", "2", None]
    assert sorted(client.keys("*")) == ["x", "y"]
    assert client.keys("[x]") == ["x"]
    assert sorted(client.scan_iter("*")) == ["x", "y"]
    assert client.exists("x", "y", "z") == 2
    assert client.delete("x", "z") == 1
    assert client.unlink("y") == 1
    assert client.dbsize() == 0
    assert client.type("x") == "none"


def test_a_transaction_runs_whole_unless_a_watched_key_changes(client):
    with client.pipeline() as pipe:
        pipe.watch("a")
        pipe.multi()
        pipe.set("a", "3")
        pipe.get("a")
        assert pipe.execute() == [True, "3"]
    with client.pipeline() as pipe:
        pipe.watch("a")
        client.set("a", "4")
        pipe.multi()
        pipe.set("a", "5")
        with pytest.raises(redis.WatchError):
            pipe.execute()
    assert client.get("a") == "4"


def test_a_long_pipeline(client):
    with client.pipeline(transaction=False) as pipe:
        for number in range(20_000):
            pipe.set(f"k{number}", number)
        assert all(pipe.execute())
    assert client.dbsize() == 20_000
    client.flushdb()
    assert client.dbsize() == 0


def test_publish_and_subscribe(client):
    channel = unique()
    pubsub = client.pubsub()
    pubsub.subscribe(channel)
    pubsub.psubscribe(f"{channel}p*")

    def next_message():
        return until(lambda: pubsub.get_message(timeout=1), bool, "a message")

    assert next_message()["type"] == "subscribe"
    assert next_message()["type"] == "psubscribe"
    assert client.publish(channel, "one") == 1
    assert client.publish(f"{channel}px", "two") == 1
    assert client.publish(unique(), "nobody") == 0
    got = next_message()
    assert (got["type"], got["channel"], got["data"]) == ("message", channel, "one")
    got = next_message()
    assert (got["type"], got["pattern"], got["channel"], got["data"]) == (
        *("pmessage", f"{channel}p*", f"{channel}px", "two"),
    )
    assert channel in client.pubsub_channels()
    assert client.pubsub_numsub(channel) == [(channel, 1)]
    assert client.pubsub_numpat() >= 1
    pubsub.unsubscribe(channel)
    assert next_message()["type"] == "unsubscribe"
    assert client.publish(channel, "gone") == 0
    pubsub.close()
    until(lambda: client.publish(f"{channel}px", "gone"), 0, "the end of the subscription")


def test_locks(client):
    lock = client.lock("lock", timeout=50)
    assert lock.acquire() and lock.owned()
    assert lock.extend(30) and 70_000 < client.pttl("lock") <= 80_000
    assert lock.reacquire()
    assert client.lock("lock", timeout=5, blocking=False).acquire() is False
    lock.release()
    assert not client.exists("lock")
    late = client.lock("lock", timeout=0.05)
    assert late.acquire()
    until(lambda: client.exists("lock"), 0, "expiry")
    with pytest.raises(redis.exceptions.LockError):
        late.release()


def test_the_connection_reports_its_properties(client):
    assert client.ping()
    assert client.echo("x") == "x"
    assert client.client_id() > 0
    assert client.client_setname("x") and client.client_getname() == "x"
    assert client.client_list()
    assert client.config_get("maxmemory")["maxmemory"]


def test_unknown_commands_get_redis_own_error(client):
    with pytest.raises(redis.ResponseError, match="unknown command 'LPUSH'|unknown command 'lpush'"):
        client.lpush("x", 1)
    assert client.ping(), "the connection stays usable"


def test_databases_are_separate():
    one, two = (redis.Redis(port=EMBEDDED_PORT, db=number) for number in (8, 9))
    key = unique()
    one.set(key, "x", ex=60)
    assert two.get(key) is None and one.get(key) == b"x"


def test_asyncio():
    async def use_client():
        client = redis.asyncio.Redis(port=EMBEDDED_PORT)
        key = unique()
        await client.set(key, 1, ex=60)
        try:
            return await client.get(key)
        finally:
            await client.aclose()

    assert asyncio.run(use_client()) == b"1"


def test_only_loopback_is_listened_on():
    with open("/proc/net/tcp") as tcp:
        listeners = [fields[1] for fields in map(str.split, tcp) if fields[3] == "0A"]
    port = f"{EMBEDDED_PORT:04X}"
    assert [address for address in listeners if address.endswith(f":{port}")] == [f"0100007F:{port}"]
    with open("/proc/net/tcp6") as tcp6:
        assert not [line for line in tcp6 if f":{port} " in line.split()[1] + " " and line.split()[3] == "0A"]


def test_streams_and_the_script_that_publishes_with_a_history(client):
    assert client.xadd("s", {"d": "a"}, id="1-0") == "1-0"
    second = client.xadd("s", {"d": "b"}, maxlen=10, approximate=True)
    assert client.xrange("s", min="(1-0") == [(second, {"d": "b"})]
    assert [entry for entry, _ in client.xrevrange("s", count=1)] == [second]
    assert (client.xlen("s"), client.type("s")) == (2, "stream")
    with pytest.raises(redis.ResponseError, match="WRONGTYPE"):
        client.get("s")
    script = (Path(__file__).parents[2] / "src/redis/history.lua").read_text()
    assert client.eval(script, 2, "h", "plain", 100, 60, 20, "Hello", "live") == 0
    assert [fields for _, fields in client.xrange("h")] == [{"d": "Hello"}]
    assert 50 <= client.ttl("h") <= 60 and 10 <= client.ttl("plain") <= 20
    assert client.get("plain") == "Hello"
