"""Publications that are kept in streams, and reading them."""

import asyncio
from datetime import datetime, timezone
from pathlib import Path

import pytest
import redis
from django.core import checks
from django.test import override_settings
from stores import ChannelRecorder, commands

from ws4redis import history, testing
from ws4redis.doctor import Doctor
from ws4redis.publisher import RedisPublisher
from ws4redis.redis_store import RedisStore

CHAT = {"facility": ["chat-*"], "messages": 3, "seconds": 60}
ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def chat():
    """A site that keeps the messages of chats."""
    with override_settings(WS4REDIS_HISTORY=[CHAT]):
        yield RedisPublisher(facility="chat-5", broadcast=True)


def entries(store, key):
    """Returns the entries of a stream."""
    return [(entry.decode(), fields) for entry, fields in store.xrange(key)]


def test_the_script_is_that_of_the_gateway():
    assert (ROOT / "src" / "redis" / "history.lua").read_text() == history.PUBLISH


def test_a_message_is_kept_persisted_and_published_by_one_script(store, chat):
    with commands(store) as seen:
        assert chat.publish_message("Hello", 10) == 0
    ((entry, fields),) = entries(store, "ws4redis:history:broadcast:chat-5")
    assert fields == {b"d": b"Hello"}
    assert [words[0] for words in seen] == ["EVAL", "XADD", "EXPIRE", "SETEX", "PUBLISH", "PUBLISH"]
    # The live channel first: the gateway knows by that that the next message of the channel is the same one.
    assert seen[4:] == [
        ["PUBLISH", "ws4redis:live:broadcast:chat-5", f"{entry} Hello"],
        ["PUBLISH", "broadcast:chat-5", "Hello"],
    ]
    assert store.ttl("ws4redis:history:broadcast:chat-5") == 60
    assert (store.get("broadcast:chat-5"), store.ttl("broadcast:chat-5")) == (b"Hello", 10)


def test_a_message_without_expire_is_only_kept_in_the_stream(store, chat):
    chat.publish_message("Hello", 0)
    assert not store.exists("broadcast:chat-5")
    assert len(entries(store, "ws4redis:history:broadcast:chat-5")) == 1


def test_the_number_of_receivers_is_that_of_the_channel(store, chat):
    recorders = [
        ChannelRecorder(store, name) for name in ("broadcast:chat-5", "ws4redis:live:broadcast:chat-5")
    ]
    assert chat.publish_message("Hello") == 1
    assert chat.pipeline_publish_message("again") == 1
    assert recorders[0].received(2) == ["Hello", "again"]
    ids = [entry for entry, _ in entries(store, "ws4redis:history:broadcast:chat-5")]
    assert recorders[1].received(2) == [f"{ids[0]} Hello", f"{ids[1]} again"]
    for recorder in recorders:
        recorder.close()


def test_each_audience_has_a_stream_and_the_prefix_precedes_all_names(store):
    with override_settings(WS4REDIS_HISTORY=["chat-*"], WS4REDIS_PREFIX="site"):
        RedisPublisher(
            facility="chat-5", broadcast=True, users=["jörg"], groups=["red team"]
        ).publish_message("x")
        assert [one.message for one in RedisPublisher().history("chat-5", "user:jörg")] == [b"x"]
    assert {key.decode() for key in store.keys("*history*")} == {
        "site:ws4redis:history:broadcast:chat-5",
        "site:ws4redis:history:user:jörg:chat-5",
        "site:ws4redis:history:group:red team:chat-5",
    }


def test_the_rules_and_the_argument_decide_what_is_kept(store):
    rules = ["chat-?", {"facility": "news", "messages": 7, "seconds": 9}]
    with override_settings(WS4REDIS_HISTORY=rules):

        def limits(facility, **arguments):
            return RedisPublisher(facility=facility, broadcast=True, **arguments)._history

        assert limits("chat-5") == history.HistoryLimits(100, 3600)
        assert limits("news") == limits("news", history=True) == history.HistoryLimits(7, 9)
        assert limits("news", history=False) is None
        assert limits("chat-55") is limits("other") is None
        assert limits("other", history=True) == history.HistoryLimits()
        with pytest.raises(TypeError, match="history must be True, False or None, not int"):
            limits("news", history=1)
    with commands(store) as seen:
        RedisPublisher(facility="chat-5", broadcast=True).publish_message("x", 0)
    assert seen == [["PUBLISH", "broadcast:chat-5", "x"]]


def test_the_last_messages_are_read_in_their_order(store, chat):
    for number in range(5):
        chat.publish_json({"number": number})
    messages = chat.history("chat-5", count=2)
    assert [one.message for one in messages] == [b'{"number":3}', b'{"number":4}']
    assert messages[0].id < messages[1].id
    assert abs((datetime.now(timezone.utc) - messages[1].time).total_seconds()) < 60
    assert asyncio.run(chat.ahistory("chat-5", "broadcast", 1)) == messages[1:]
    assert chat.history("chat-5", "user:john") == chat.history("unknown") == []


def test_binary_messages_are_kept_as_they_are(store, chat):
    chat.publish_message(b"\x00\xff \r\n")
    assert [one.message for one in chat.history("chat-5")] == [b"\x00\xff \r\n"]


def test_redis_keeps_little_more_than_the_limit(store, chat):
    for _ in range(300):
        chat.publish_message("x")
    # Redis trims whole nodes of a stream.
    assert 3 <= store.xlen("ws4redis:history:broadcast:chat-5") <= 103


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ({"facility": b"f"}, "facility must be a str, not bytes"),
        ({"facility": "f", "count": 0}, "count must be an int of at least 1"),
        ({"facility": "f", "count": True}, "count must be an int of at least 1"),
        ({"facility": "f", "audience": "user"}, "audience must be 'broadcast', 'group:NAME'"),
        ({"facility": "f", "audience": "user:"}, "audience must be"),
        ({"facility": "f", "audience": "broadcast:x"}, "audience must be"),
        ({"facility": "f", "audience": "ws4redis:control"}, "audience must be"),
        ({"facility": "f", "audience": None}, "audience must be"),
    ],
)
def test_wrong_arguments_of_a_read_are_named(arguments, expected):
    with pytest.raises(TypeError, match=expected):
        RedisPublisher().history(**arguments)


@pytest.mark.parametrize("transaction", [False, True])
@pytest.mark.parametrize("rights", ["-eval", "-xadd"])
def test_a_redis_that_refuses_the_script_is_an_error_with_its_cure(store, chat, rights, transaction):
    store.execute_command("ACL", "SETUSER", "limited", "on", ">secret", "~*", "&*", "+@all", rights)
    limited = redis.Redis(
        unix_socket_path=store.connection_pool.connection_kwargs["path"],
        username="limited",
        password="secret",
    )
    chat._connection = limited
    with pytest.raises(history.HistoryRefused, match=r"Grant \+eval") as caught:
        chat.pipeline_publish_message("the message", transaction=transaction)
    assert "the message" not in str(caught.value)
    with pytest.raises(history.HistoryRefused):
        history.probe(limited, "")
    limited.close()
    store.execute_command("ACL", "DELUSER", "limited")
    assert store.keys("*") == []


def test_other_errors_of_redis_stay_as_they_are(store, chat):
    store.set("ws4redis:history:broadcast:chat-5", "no stream")
    with pytest.raises(redis.ResponseError, match="WRONGTYPE") as caught:
        chat.publish_message("Hello")
    assert not isinstance(caught.value, history.HistoryRefused)


def test_a_store_of_its_own_keeps_no_history(store):
    plain = RedisStore(store)
    plain._publishers.add("broadcast:chat-5")
    with override_settings(WS4REDIS_HISTORY=["*"]), commands(store) as seen:
        plain.publish_message("x", 0)
    assert seen == [["PUBLISH", "broadcast:chat-5", "x"]]


# ---- Settings --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("chat-*", "expected a list of patterns"),
        ([5], "expected patterns, or dicts"),
        ([{"facilities": ["x"]}], "expected patterns, or dicts"),
        ([{"messages": 5}], "facility must be a list of patterns"),
        ([{"facility": []}], "facility must be a list of patterns"),
        ([{"facility": ["x"], "messages": 0}], "messages must be an int from 1 to 1000000"),
        ([{"facility": ["x"], "messages": True}], "messages must be an int"),
        ([{"facility": ["x"], "seconds": 31_622_401}], "seconds must be an int from 1 to 31622400"),
    ],
)
def test_a_wrong_setting_is_named_by_the_system_checks(given, expected):
    with override_settings(WS4REDIS_HISTORY=given):
        found = [message for message in checks.run_checks(tags=["ws4redis"]) if message.id == "ws4redis.E017"]
        assert [expected in message.msg for message in found] == [True], found
        with pytest.raises(ValueError, match=expected):
            RedisPublisher(facility="x", broadcast=True)


@pytest.mark.parametrize(
    ("prefix", "count"), [("ws4redis:history", 1), ("a:ws4redis:live", 1), ("my-ws4redis", 0)]
)
def test_a_prefix_that_names_histories_is_an_error(prefix, count):
    with override_settings(WS4REDIS_PREFIX=prefix):
        assert [one.id for one in checks.run_checks(tags=["ws4redis"])].count("ws4redis.E018") == count


def test_the_doctor_says_what_histories_cost_and_whether_redis_runs_the_script(store, chat):
    found = [(one.level, one.text) for one in Doctor()._histories(store)]
    assert [level for level, _ in found] == ["ok"]
    assert found[0][1].startswith(
        "history chat-*: 3 messages for 60 s; a channel with messages of 500 bytes takes up"
    )
    store.execute_command("ACL", "SETUSER", "limited", "on", ">secret", "~*", "&*", "+@all", "-eval")
    limited = redis.Redis(
        unix_socket_path=store.connection_pool.connection_kwargs["path"],
        username="limited",
        password="secret",
    )
    assert [one.level for one in Doctor()._histories(limited)] == ["ok", "error"]
    limited.close()
    store.execute_command("ACL", "DELUSER", "limited")
    with override_settings(WS4REDIS_HISTORY=()):
        assert list(Doctor()._histories(store)) == []


def test_the_doctor_compares_the_rules_with_those_of_a_gateway(chat):
    def problems(answer):
        return [
            one.text for one in Doctor()._compare(answer) if one.level == "error" and "history" in one.text
        ]

    assert problems({"history": [CHAT]}) == problems({}) == []
    (problem,) = problems({"server": "a", "history": []})
    assert '[[history]] is [] in the gateway, and WS4REDIS_HISTORY is [{"facility": ["chat-*"]' in problem


# ---- Test runs -------------------------------------------------------------------------------------------------------


def test_a_test_run_captures_what_would_be_kept(store, chat, monkeypatch):
    monkeypatch.setattr(testing, "_live", 0)
    assert chat.history("chat-5") == []
    with testing.capture_publications() as published, commands(store) as seen:
        chat.publish_message("one")
        RedisPublisher(facility="chat-5", broadcast=True, history=False).publish_message("not kept")
        chat.publish_message("two")
        kept = chat.history("chat-5", count=2)
    assert seen == []
    assert [one.history for one in published] == [True, False, True]
    assert [(one.id, one.message) for one in kept] == [("1-0", b"one"), ("2-0", b"two")]
