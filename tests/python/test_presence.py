"""What `ws4redis.presence` reads of the sorted sets that gateways write."""

import time
import uuid

import pytest
import redis
from django.contrib.auth.models import AnonymousUser
from django.test import override_settings
from stores import commands

from ws4redis import presence, testing

VALID = 60
STALE = -1


def write(store, key, **members):
    """Writes members that are valid for so many seconds."""
    store.zadd(key, {name: time.time() + seconds for name, seconds in members.items()})


def write_all(store, key, members, seconds=VALID):
    """Writes members that are valid for the same time."""
    store.zadd(key, dict.fromkeys(members, time.time() + seconds))


def test_a_user_is_online_while_a_connection_is_valid(store, people):
    assert not presence.is_online("john")
    write(store, "ws4redis:online:john", a=VALID, b=STALE)
    write(store, "ws4redis:online:mary", c=STALE)
    assert presence.is_online("john")
    assert presence.is_online(people["john"])
    assert not presence.is_online("mary")
    assert not presence.is_online(people["mary"])
    assert not presence.is_online(AnonymousUser())


def test_each_function_takes_one_command(store):
    with commands(store) as seen:
        presence.is_online("john")
        presence.online()
        presence.sids("john")
        presence.users("chat")
        presence.count("chat")
    assert [words[:2] for words in seen] == [
        ["ZCOUNT", "ws4redis:online:john"],
        ["ZRANGEBYSCORE", "ws4redis:online"],
        ["ZRANGEBYSCORE", "ws4redis:online:john"],
        ["ZRANGEBYSCORE", "ws4redis:presence:chat"],
        ["ZRANGEBYSCORE", "ws4redis:presence:chat"],
    ]


def test_online_and_sids_leave_stale_entries_out(store, people):
    write(store, "ws4redis:online", john=VALID, mary=STALE, ann=VALID)
    write(store, "ws4redis:online:john", a=VALID, b=STALE)
    assert presence.online() == {"john", "ann"}
    assert presence.sids("john") == presence.sids(people["john"]) == {"a"}
    assert presence.sids("nobody") == presence.sids(AnonymousUser()) == set()


def test_visitors_of_a_facility_are_users_once_and_anonymous_connections_by_number(store):
    one, two, dead = "0123456789ab", "fedcba987654", "000000000000"
    members = [f"{one}/john", f"{two}/john", f"{two}/a/b#7", f"{one}#3", f"{two}#12"]
    write_all(store, "ws4redis:presence:chat-5", members)
    write_all(store, "ws4redis:presence:chat-5", [f"{dead}/mary", f"{dead}#100"], STALE)
    write_all(store, "ws4redis:presence:/chat", [f"{one}/zoë"])
    assert presence.users("chat-5") == {"john", "a/b#7"}
    assert presence.count("chat-5") == 2 + 15
    assert presence.users("/chat") == {"zoë"}
    assert presence.users("nowhere") == set()
    assert presence.count("nowhere") == 0


def test_primary_keys_name_users_of_gateways_that_use_them(store):
    key = uuid.uuid4()
    write(store, "ws4redis:online:7", a=VALID)
    write(store, f"ws4redis:online:{key}", b=VALID)
    assert presence.is_online(7)
    assert presence.sids(key) == {"b"}


def test_in_a_test_run_nobody_is_online_and_redis_is_not_read(store, monkeypatch):
    write(store, "ws4redis:online", john=VALID)
    write(store, "ws4redis:online:john", a=VALID)
    monkeypatch.setattr(testing, "_live", 0)
    with commands(store) as seen:
        assert not presence.is_online("john")
        assert presence.online() == presence.sids("john") == presence.users("chat") == set()
        assert presence.count("chat") == 0
    assert seen == []


@override_settings(WS4REDIS_PREFIX="site")
def test_keys_have_the_prefix_of_the_site(store):
    write(store, "ws4redis:online", wrong=VALID)
    write(store, "site:ws4redis:online", right=VALID)
    assert presence.online() == {"right"}


def test_replies_may_be_decoded_by_the_connection(store):
    write(store, "ws4redis:online", zoë=VALID)
    path = store.connection_pool.connection_kwargs["path"]
    with override_settings(WS4REDIS_CONNECTION={"unix_socket_path": path, "decode_responses": True}):
        assert presence.online() == {"zoë"}


@pytest.mark.parametrize("user", [None, True, b"john", ["john"], 1.5])
def test_what_is_no_user_is_refused(user):
    with pytest.raises(TypeError, match="user must be a user or a name"):
        presence.is_online(user)
    with pytest.raises(ValueError, match="user must be a user or a name"):
        presence.sids(user)


def test_what_is_no_facility_is_refused():
    with pytest.raises(TypeError, match="facility must be a str, not int"):
        presence.users(5)


def test_an_error_of_redis_is_raised(store):
    store.set("ws4redis:online", "no sorted set")
    with pytest.raises(redis.ResponseError):
        presence.online()
    with (
        override_settings(WS4REDIS_CONNECTION={"unix_socket_path": "/nonexistent"}),
        pytest.raises(redis.ConnectionError),
    ):
        presence.is_online("john")
