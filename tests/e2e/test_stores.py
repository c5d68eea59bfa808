"""The gateway reads sessions in each serialization and compression of the caches."""

import re

import pytest
import redis

import test_sessions
from deployments import SiteKind, Deployment


def kind(name, prefix_pattern, gateway=None, **site):
    return pytest.param(SiteKind(name, {"sessions": "django_redis"} | site, gateway or {}), prefix_pattern, id=name)


# Each with a pattern of the first bytes of its values.
KINDS = [
    kind("herd", rb"\x80.{10}\x8c\x18django_redis\.client\.herd", client="herd"),
    kind("pickle_0", rb"\(d", pickle="0"),
    kind("gzip+pickle_2", rb"\x1f\x8b", compressor="gzip", pickle="2"),
    kind("lz4+herd", rb"\x04\x22\x4d\x18", compressor="lz4", client="herd"),
    kind("zstd+pickle_4", rb"\x28\xb5\x2f\xfd", compressor="zstd", pickle="4"),
    kind("lzma+json", rb"\xfd7zXZ", compressor="lzma", serializer="json"),
    kind("msgpack", rb"[\x80-\x8f]\xad_auth_user", serializer="msgpack"),
    kind("zlib+msgpack", rb"\x78", compressor="zlib", serializer="msgpack"),
    kind(
        "key_prefix",
        rb"\x80\x05",
        {"session__keys": "cache mysite:7:django.contrib.sessions.cache{key}"},
        sessions="cache",
        key_prefix="mysite",
        key_version="7",
    ),
]


@pytest.fixture
def deployment(kind, database):
    deployment = Deployment(kind, database(kind))
    deployment.reset()
    yield deployment
    deployment.stop()


@pytest.mark.parametrize(("kind", "prefix_pattern"), KINDS)
def test_sessions_are_read_in_each_form(deployment, prefix_pattern):
    test_sessions.test_visitors_receive_their_own_messages_and_no_others(deployment)
    test_sessions.test_the_doctor_finds_no_error(deployment)
    with redis.Redis(port=deployment.redis.port) as client:
        values = [client.get(key) for key in client.keys("*django.contrib.sessions*")]
    assert values
    for value in values:
        assert re.match(prefix_pattern, value, re.DOTALL), value
