"""The Redis clients of Django sites, against the embedded store of the built binary."""

import django
import pytest
import redis
from django.conf import settings

from harness import EMBEDDED_PORT, embedded_gateway

LOCATION = f"redis://127.0.0.1:{EMBEDDED_PORT}"

settings.configure(
    SECRET_KEY="for tests only",
    INSTALLED_APPS=["django.contrib.sessions", "ws4redis"],
    USE_TZ=True,
    WS4REDIS_CONNECTION={"host": "127.0.0.1", "port": EMBEDDED_PORT, "db": 3},
    WS4REDIS_EXPIRE=60,
    WS4REDIS_PREFIX="clients",
    SESSION_REDIS={"host": "127.0.0.1", "port": EMBEDDED_PORT, "db": 2, "prefix": "session"},
    CACHES={
        "django": {"BACKEND": "django.core.cache.backends.redis.RedisCache", "LOCATION": f"{LOCATION}/1"},
        "django-redis": {
            "BACKEND": "django_redis.cache.RedisCache",
            "LOCATION": f"{LOCATION}/4",
            "OPTIONS": {"CLIENT_CLASS": "django_redis.client.DefaultClient"},
        },
        "default": {"BACKEND": "django.core.cache.backends.redis.RedisCache", "LOCATION": f"{LOCATION}/5"},
    },
)
django.setup()


@pytest.fixture(scope="session", autouse=True)
def gateway():
    with embedded_gateway() as gateway:
        yield gateway


@pytest.fixture(params=[2, 3], ids=["RESP2", "RESP3"])
def client(request):
    """A client of an empty database."""
    client = redis.Redis(port=EMBEDDED_PORT, db=7, protocol=request.param, decode_responses=True, socket_timeout=10)
    client.flushdb()
    yield client
    client.close()
