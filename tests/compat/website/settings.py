"""A small site with django-websocket-redis, set up as its documentation shows. Only the publishing side is used."""

import os

REDIS_PORT = int(os.environ.get("SITE_REDIS_PORT", "6379"))

SECRET_KEY = "for tests only"
DEBUG = True
ALLOWED_HOSTS = ["127.0.0.1"]
USE_TZ = True
ROOT_URLCONF = "urls"

INSTALLED_APPS = [
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.sessions",
    "ws4redis",
]
MIDDLEWARE = [
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
]
DATABASES = {
    "default": {
        "ENGINE": "django.db.backends.sqlite3",
        "NAME": os.environ.get("SITE_DATABASE", ":memory:"),
    }
}
# Fast, and only acceptable in tests.
PASSWORD_HASHERS = ["django.contrib.auth.hashers.MD5PasswordHasher"]

CACHES = {
    "default": {
        "BACKEND": "django.core.cache.backends.redis.RedisCache",
        "LOCATION": f"redis://127.0.0.1:{REDIS_PORT}",
    }
}
SESSION_ENGINE = "django.contrib.sessions.backends.cache"

WEBSOCKET_URL = "/ws/"
WS4REDIS_CONNECTION = {"host": "127.0.0.1", "port": REDIS_PORT}
WS4REDIS_EXPIRE = int(os.environ.get("SITE_EXPIRE", "3600"))
WS4REDIS_PREFIX = os.environ.get("SITE_PREFIX") or None
WS4REDIS_HEARTBEAT = os.environ.get("SITE_HEARTBEAT") or None
