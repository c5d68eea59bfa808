"""A site with logins and three chats, configured by environment variables:

SITE_REDIS      URL of Redis                                 redis://127.0.0.1:6379/0
SITE_DATABASE   file of the SQLite database                  site.sqlite3 next to manage.py
SITE_SESSIONS   a name of the table `SESSIONS` below         cache
SITE_SERIALIZER json, msgpack, pickle, of django-redis' caches  pickle
SITE_PICKLE     the protocol of pickles, of the same         the newest
SITE_COMPRESSOR zlib, gzip, lz4, zstd, lzma, of the same     none
SITE_CLIENT     default or herd, of the same                 default
SITE_KEY_PREFIX, SITE_KEY_VERSION  of all caches             none, 1
SITE_WITHOUT_PACKAGE  anything: ws4redis is not installed    nothing
SITE_PREFIX, SITE_HEARTBEAT, SITE_EXPIRE, SITE_WEBSOCKET_URI, SITE_SECRET_KEY, SITE_SECRET_KEY_FALLBACKS,
SITE_CALLBACK_SECRET, SITE_SSL_REDIRECT, SITE_COOKIE_AGE, SITE_COOKIE_NAME, SITE_HOSTS, SITE_STATIC_ROOT,
SITE_BINARY
"""

import os
import runpy
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import django

HERE = Path(__file__).resolve().parent.parent

REDIS = os.environ.get("SITE_REDIS", "redis://127.0.0.1:6379/0")
SECRET_KEY = os.environ.get("SITE_SECRET_KEY", "for tests only, and for nothing else in the world")
SECRET_KEY_FALLBACKS = [key for key in os.environ.get("SITE_SECRET_KEY_FALLBACKS", "").split(",") if key]
DEBUG = bool(os.environ.get("SITE_DEBUG"))
ALLOWED_HOSTS = os.environ.get("SITE_HOSTS", "127.0.0.1,localhost,testserver").split(",")
USE_TZ = True
ROOT_URLCONF = "project.urls"
WSGI_APPLICATION = "project.wsgi.application"
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
STATIC_URL = "/static/"
STATIC_ROOT = os.environ.get("SITE_STATIC_ROOT")
# jQuery for the legacy pages, available once the browser tests are installed.
_jquery = HERE.parent / "browser" / "node_modules" / "jquery" / "dist"
STATICFILES_DIRS = [("js", _jquery)] if _jquery.is_dir() else []
LOGIN_REDIRECT_URL = "/"
LOGOUT_REDIRECT_URL = "/accounts/login/"

INSTALLED_APPS = [
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.sessions",
    "django.contrib.staticfiles",
    "ws4redis",
    "chat",
]
MIDDLEWARE = [
    "django.middleware.security.SecurityMiddleware",
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.middleware.common.CommonMiddleware",
    "django.middleware.csrf.CsrfViewMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    "ws4redis.middleware.SessionMiddleware",
]
if os.environ.get("SITE_WITHOUT_PACKAGE"):
    INSTALLED_APPS.remove("ws4redis")
    MIDDLEWARE.remove("ws4redis.middleware.SessionMiddleware")
else:
    # In a checkout the package has a copy of the client only after a build.
    runpy.run_path(str(HERE.parent.parent / "python" / "setup.py"))["copy_client"]()
# As behind a proxy that terminates TLS.
SECURE_SSL_REDIRECT = bool(os.environ.get("SITE_SSL_REDIRECT"))
SECURE_PROXY_SSL_HEADER = ("HTTP_X_FORWARDED_PROTO", "https")
TEMPLATES = [
    {
        "BACKEND": "django.template.backends.django.DjangoTemplates",
        "APP_DIRS": True,
        "OPTIONS": {
            "context_processors": [
                "django.template.context_processors.request",
                "django.template.context_processors.static",
                "django.contrib.auth.context_processors.auth",
                "ws4redis.context_processors.default",
            ]
        },
    }
]
DATABASES = {
    "default": {
        "ENGINE": "django.db.backends.sqlite3",
        "NAME": os.environ.get("SITE_DATABASE", str(HERE / "site.sqlite3")),
        # Several threads and processes write to the file.
        "OPTIONS": {"timeout": 20},
        "TEST": {"NAME": os.environ.get("SITE_DATABASE")},
    }
}
# Fast, and only acceptable in tests.
PASSWORD_HASHERS = ["django.contrib.auth.hashers.MD5PasswordHasher"]

# ---- Sessions ---------------------------------------------------------------------------------------------------------

DJANGO_REDIS = "django_redis.cache.RedisCache"
# New in Django 4.0.
BUILTIN = "django.core.cache.backends.redis.RedisCache" if django.VERSION >= (4,) else DJANGO_REDIS
# Name: session engine and its cache.
SESSIONS = {
    "cache": ("django.contrib.sessions.backends.cache", BUILTIN),
    "cached_db": ("django.contrib.sessions.backends.cached_db", BUILTIN),
    "django_redis": ("django.contrib.sessions.backends.cache", DJANGO_REDIS),
    "django_redis_cached_db": ("django.contrib.sessions.backends.cached_db", DJANGO_REDIS),
    "redis_sessions": ("redis_sessions.session", BUILTIN),
    "db": ("django.contrib.sessions.backends.db", BUILTIN),
    "file": ("django.contrib.sessions.backends.file", BUILTIN),
    "signed_cookies": ("django.contrib.sessions.backends.signed_cookies", BUILTIN),
}
COMPRESSORS = {
    "zlib": "ZlibCompressor",
    "gzip": "GzipCompressor",
    "lz4": "Lz4Compressor",
    "lzma": "LzmaCompressor",
}
COMPRESSORS["zstd"] = "ZStdCompressor"

SERIALIZERS = {"json": "json.JSONSerializer", "msgpack": "msgpack.MSGPackSerializer"}
CLIENTS = {"default": "DefaultClient", "herd": "HerdClient"}

SESSION_ENGINE, CACHE_BACKEND = SESSIONS[os.environ.get("SITE_SESSIONS", "cache")]
SESSION_COOKIE_AGE = int(os.environ.get("SITE_COOKIE_AGE", "1209600"))
SESSION_COOKIE_NAME = os.environ.get("SITE_COOKIE_NAME", "sessionid")
CACHES: dict[str, Any] = {
    "default": {
        "BACKEND": CACHE_BACKEND,
        "LOCATION": REDIS,
        "KEY_PREFIX": os.environ.get("SITE_KEY_PREFIX", ""),
        "VERSION": int(os.environ.get("SITE_KEY_VERSION", "1")),
    }
}
if CACHE_BACKEND == DJANGO_REDIS:
    options: dict[str, Any] = {
        "CLIENT_CLASS": f"django_redis.client.{CLIENTS[os.environ.get('SITE_CLIENT', 'default')]}"
    }
    CACHES["default"]["OPTIONS"] = options
    serializer = os.environ.get("SITE_SERIALIZER", "pickle")
    if serializer != "pickle":
        options["SERIALIZER"] = f"django_redis.serializers.{SERIALIZERS[serializer]}"
    if "SITE_PICKLE" in os.environ:
        options["PICKLE_VERSION"] = int(os.environ["SITE_PICKLE"])
    compressor = os.environ.get("SITE_COMPRESSOR")
    if compressor:
        options["COMPRESSOR"] = f"django_redis.compressors.{compressor}.{COMPRESSORS[compressor]}"
_url = urlsplit(REDIS)
SESSION_REDIS = {"prefix": os.environ.get("SITE_SESSION_PREFIX", ""), "socket_timeout": 5}
if _url.scheme == "unix":
    SESSION_REDIS["unix_domain_socket_path"] = _url.path
else:
    SESSION_REDIS.update(host=_url.hostname, port=_url.port or 6379, db=int(_url.path.strip("/") or 0))

# ---- WebSockets -------------------------------------------------------------------------------------------------------

WEBSOCKET_URL = "/ws/"
# The WebSocket address if the gateway has another host: ws://127.0.0.1:8000/ws/
SITE_WEBSOCKET_URI = os.environ.get("SITE_WEBSOCKET_URI")
WS4REDIS_CONNECTION = {"url": REDIS}
WS4REDIS_EXPIRE = int(os.environ.get("SITE_EXPIRE", "3600"))
WS4REDIS_PREFIX = os.environ.get("SITE_PREFIX") or None
WS4REDIS_HEARTBEAT = os.environ.get("SITE_HEARTBEAT", "--heartbeat--") or None
WS4REDIS_BINARY = os.environ.get("SITE_BINARY")
WS4REDIS_CALLBACK_SECRET = os.environ.get("SITE_CALLBACK_SECRET") or None
