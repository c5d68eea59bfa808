"""The meaning of WS4REDIS_CONNECTION."""

import json
from pathlib import Path

import pytest
import redis
from django.core import checks
from django.test import override_settings

from ws4redis import connection

URLS = json.loads((Path(__file__).parent.parent / "fixtures" / "redis_urls.json").read_text())


@pytest.mark.parametrize("line", URLS, ids=lambda line: line["url"])
def test_the_gateways_table_of_urls_is_what_redis_py_reads(line):
    with override_settings(WS4REDIS_CONNECTION={"url": line["url"]}):
        pool = connection.pool()
    about = pool.connection_kwargs
    read = {name: about[name] for name in ("host", "port", "path", "username", "password") if about.get(name)}
    if about.get("db"):
        read["db"] = about["db"]
    if issubclass(pool.connection_class, redis.SSLConnection):
        read["tls"] = True
    assert read == {name: value for name, value in line.items() if name != "url"}


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        ({"url": "redis://:geheim@localhost?databse=2"}, "databse"),
        ({"url": "unix:/run/redis.sock?password=geheim&host=a"}, "host"),
        ({"host": "localhost", "pasword": "geheim"}, "pasword"),
        ({"url": "redis-sentinel://:geheim@localhost"}, "sentinelServiceName"),
        ({"url": "redis-sentinel://:geheim@localhost?sentinelServiceName=m&servise=geheim"}, "servise"),
        ({"url": "redis-sentinel://localhost:geheim?sentinelServiceName=m"}, "port"),
        ({"url": "redis-sentinel://localhost/geheim?sentinelServiceName=m"}, "database"),
        ({"url": "redis-cluster://:geheim@localhost/1"}, "database 0"),
        ({"url": "redis-cluster://:geheim@localhost?sentinelServiceName=m"}, "sentinelServiceName"),
        ({"url": "redis-cluster://localhost", "pasword": "geheim"}, "pasword"),
        ({"url": "redis+sentinel://:geheim@localhost"}, "redis-sentinel://"),
        ({"url": "redis://localhost:geheim"}, "number"),
        ({"url": "redis://localhost?db=geheim"}, "number"),
        ({"url": "redis://localhost/geheim"}, "number"),
        ({"host": "localhost", "port": "geheim"}, "number"),
        ({"url": 6379}, "string"),
    ],
)
def test_an_unusable_connection_is_reported_without_its_password(arguments, part):
    with override_settings(WS4REDIS_CONNECTION=arguments):
        found = [message for message in checks.run_checks(tags=["ws4redis"]) if message.id == "ws4redis.E013"]
    assert len(found) == 1
    assert part in found[0].msg
    assert "geheim" not in found[0].msg


@pytest.mark.parametrize(
    "arguments",
    [
        *({"url": line["url"]} for line in URLS),
        {},
        {"host": "localhost", "port": 6379, "db": 1, "password": "x", "socket_timeout": 1},
        {"host": "localhost", "ssl": True, "ssl_ca_certs": "/etc/ssl/certs/ca.pem"},
        {"unix_socket_path": "/run/redis.sock", "db": 1},
        {"connection_class": redis.Connection, "max_connections": 10},
    ],
)
def test_a_usable_connection_has_no_finding(arguments):
    with override_settings(WS4REDIS_CONNECTION=arguments):
        assert [message.msg for message in checks.run_checks(tags=["ws4redis"])] == []
