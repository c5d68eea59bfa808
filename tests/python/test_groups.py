"""The Channels groups of users: the set in Redis and the message to gateways."""

import asyncio
import json
import uuid

import pytest
import redis
from django.contrib.auth.models import AnonymousUser, User
from django.db import transaction
from django.test import override_settings
from stores import ChannelRecorder, commands

from ws4redis import groups, testing


def members(store, key):
    return {member.decode() for member in store.smembers(key)}


def test_a_user_joins_and_leaves_groups(store, people):
    john = people["john"]
    key = f"ws4redis:groups:{john.pk}"
    assert groups.add(john, "chat_5", "chat_6") == 2
    assert groups.add(john.pk, "chat_6", "chat_7") == 1
    assert groups.of(john) == groups.of(str(john.pk)) == members(store, key) == {"chat_5", "chat_6", "chat_7"}
    assert store.ttl(key) == -1
    assert groups.discard(john, "chat_5", "elsewhere") == 1
    assert groups.of(john) == {"chat_6", "chat_7"}
    assert groups.of(people["mary"]) == set()


def test_each_change_notifies_gateways_in_the_same_transaction(people, store):
    pk = people["john"].pk
    recorder = ChannelRecorder(store, "ws4redis:control")
    with commands(store) as seen:
        groups.add(people["john"], "chat_5")
        groups.discard(people["john"], "chat_5")
    invalidation = f'{{"v":1,"groups":"{pk}"}}'
    key, control = f"ws4redis:groups:{pk}", ["PUBLISH", "ws4redis:control", invalidation]
    assert seen == [
        ["MULTI"],
        ["SADD", key, "chat_5"],
        control,
        ["EXEC"],
        ["MULTI"],
        ["SREM", key, "chat_5"],
        control,
        ["EXEC"],
    ]
    assert recorder.received(2) == [invalidation] * 2
    recorder.close()


def test_nothing_is_sent_without_a_group(people, store):
    with commands(store) as seen:
        assert groups.add(people["john"]) == groups.discard(people["john"]) == 0
    assert seen == []


def test_the_deletion_of_a_user_deletes_the_groups_after_the_commit(people, store):
    john = people["john"]
    key = f"ws4redis:groups:{john.pk}"
    groups.add(john, "chat_5")
    groups.add(people["mary"], "chat_5")
    recorder = ChannelRecorder(store, "ws4redis:control")
    with transaction.atomic():
        User.objects.filter(pk=john.pk).delete()
        assert store.exists(key)
    assert not store.exists(key)
    assert groups.of(people["mary"]) == {"chat_5"}
    assert {"v": 1, "groups": key.rsplit(":", 1)[1]} in [json.loads(text) for text in recorder.received(2)]
    recorder.close()


def test_an_unreachable_redis_does_not_prevent_the_deletion_of_a_user(people, caplog, monkeypatch):
    def fail(*words):
        raise redis.ConnectionError("down")

    monkeypatch.setattr(groups, "_write", fail)
    people["john"].delete()
    assert not User.objects.filter(username="john").exists()
    assert "the Channels groups of a deleted user stay at ws4redis:groups:" in caplog.text


def test_prefix_and_tenant_are_part_of_the_key(people, store):
    pk = people["john"].pk
    with override_settings(WS4REDIS_PREFIX="demo", WS4REDIS_IDENTITY_NAMESPACE=lambda: "acme"):
        recorder = ChannelRecorder(store, "demo:ws4redis:control")
        groups.add(people["john"], "chat_5")
        assert recorder.received(1) == [f'{{"v":1,"groups":"acme:{pk}"}}']
        recorder.close()
    assert members(store, f"demo:ws4redis:groups:acme:{pk}") == {"chat_5"}


@pytest.mark.parametrize("user", [None, True, 1.5, AnonymousUser(), User(username="unsaved")])
def test_only_saved_users_and_primary_keys_are_in_groups(store, user):
    for call in (groups.add, groups.discard):
        with pytest.raises(TypeError):
            call(user, "chat_5")
    with pytest.raises(ValueError, match="primary key"):
        groups.of(user)


@pytest.mark.parametrize("name", ["", None, 5, b"chat_5", ["chat_5"]])
def test_names_of_groups_are_texts(store, name):
    with pytest.raises(TypeError, match="groups must be names"):
        groups.add("7", "chat_5", name)
    assert not store.keys("*")


def test_primary_keys_of_all_kinds_are_accepted(store):
    pk = uuid.uuid4()
    groups.add(pk, "chat_5")
    groups.add("7", "chat_5")
    assert groups.of(pk) == groups.of(7) == {"chat_5"}


def test_async_views_await_the_same(people):
    async def view():
        added = await groups.aadd(people["john"], "chat_5", "chat_6")
        return added, await groups.adiscard(people["john"], "chat_5")

    assert asyncio.run(view()) == (2, 1)
    assert groups.of(people["john"]) == {"chat_6"}


def test_a_test_run_writes_nothing(people, store, monkeypatch):
    monkeypatch.setattr(testing, "_live", 0)
    assert groups.add(people["john"], "chat_5") == 0
    assert groups.of(people["john"]) == set()
    assert not store.keys("*groups*")
