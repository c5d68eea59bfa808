"""The use of Redis by Django sites: caches, sessions, and the package's publisher."""

import datetime
import importlib

import pytest
import redis
from django.core.cache import caches
from django.test import RequestFactory

from harness import EMBEDDED_PORT, PubSubRecorder, unique


@pytest.fixture(params=["django", "django-redis"])
def cache(request):
    cache = caches[request.param]
    cache.clear()
    return cache


def test_a_cache_keeps_and_forgets(cache):
    cache.set("a", {"x": 1}, 30)
    assert cache.get("a") == {"x": 1}
    assert cache.add("a", 2) is False
    assert cache.add("b", 2) is True and cache.get("b") == 2
    assert cache.has_key("a") and not cache.has_key("m")
    assert cache.get_or_set("lazy", lambda: 7, 60) == 7
    cache.set("gone", 1, 0)
    assert cache.get("gone") is None
    cache.set("gone", 1, -5)
    assert cache.get("gone") is None
    assert cache.delete("a") and not cache.delete("a")
    cache.clear()
    assert cache.get("b") is None


def test_a_cache_counts(cache):
    cache.set("n", 2)
    assert cache.incr("n") == 3 and cache.decr("n", 2) == 1 and cache.incr("n", 10) == 11
    with pytest.raises(ValueError):
        cache.incr("missing")
    cache.incr_version("n")
    assert cache.get("n") is None and cache.get("n", version=2) == 11


def test_a_cache_does_many_at_once(cache):
    cache.set_many({"m": 1, "n": 2}, 20)
    assert cache.get_many(["m", "n", "o"]) == {"m": 1, "n": 2}
    assert cache.touch("m", 50) and cache.touch("m", None) and not cache.touch("missing", 5)
    cache.delete_many(["m", "n"])
    assert cache.get_many(["m", "n"]) == {}


def test_django_redis_own_methods():
    cache = caches["django-redis"]
    cache.clear()
    cache.set("foo1", 1, 100)
    cache.set("foo2", 2, 100)
    assert sorted(cache.keys("foo*")) == ["foo1", "foo2"]
    assert sorted(cache.iter_keys("foo*")) == ["foo1", "foo2"]
    assert 90 <= cache.ttl("foo1") <= 100 and cache.pttl("foo1") > 90_000
    assert cache.expire("foo1", 100) and cache.pexpire("foo1", 100_000)
    assert cache.persist("foo1") and cache.ttl("foo1") is None
    later = datetime.datetime.now() + datetime.timedelta(hours=1)
    assert cache.expire_at("foo1", later) and cache.pexpire_at("foo1", later)
    assert cache.delete_pattern("foo*") == 2
    with cache.lock("lock", timeout=60):
        assert cache.keys("lock") == ["lock"]
    assert cache.keys("lock") == []
    assert cache.set("nx", 1, nx=True) and not cache.set("nx", 1, nx=True)


@pytest.mark.parametrize(
    "engine, alias",
    [
        ("django.contrib.sessions.backends.cache", "django"),
        ("django.contrib.sessions.backends.cache", "django-redis"),
        ("redis_sessions.session", None),
    ],
    ids=["RedisCache", "django-redis", "django-redis-sessions"],
)
def test_sessions(engine, alias, settings_of):
    settings_of(SESSION_CACHE_ALIAS=alias)
    store = importlib.import_module(engine).SessionStore
    session = store()
    session["ws4redis:memberof"] = ["chatters"]
    session.save()
    key = session.session_key
    assert len(key) == 32
    assert store(key)["ws4redis:memberof"] == ["chatters"]
    session.set_expiry(100)
    session.save()
    session.cycle_key()
    assert session.session_key != key
    assert store(session.session_key)["ws4redis:memberof"] == ["chatters"]
    assert not store(key).exists(key)
    session.flush()
    assert store(key).load() == {}


@pytest.fixture
def settings_of():
    from django.test import override_settings

    active = []

    def change(**values):
        override = override_settings(**{name: value for name, value in values.items() if value is not None})
        override.enable()
        active.append(override)

    yield change
    for override in active:
        override.disable()


def test_the_packages_publisher(gateway):
    from ws4redis.publisher import RedisPublisher
    from ws4redis.redis_store import RedisMessage

    store = redis.Redis(port=EMBEDDED_PORT, db=3)
    recorder = PubSubRecorder(store)
    facility = unique()
    RedisPublisher(facility=facility, broadcast=True, users=["john"]).publish_message(RedisMessage("hello"))
    broadcast, user = f"clients:broadcast:{facility}", f"clients:user:john:{facility}"
    assert sorted(recorder.received()) == [(broadcast, b"hello"), (user, b"hello")]
    assert store.get(broadcast) == b"hello" and 50 <= store.ttl(broadcast) <= 60
    request = RequestFactory().get("/")
    request.session = request.user = None
    assert RedisPublisher().fetch_message(request, facility) == b"hello"
    recorder.close()
