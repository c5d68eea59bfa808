"""The chat of the tutorial, configured by environment variables:

SITE_SERVER    channels: Daphne runs the site and its consumers; gateway: WSGI, and the gateway has the sockets
SITE_LAYER     core or pubsub, of channels_redis
SITE_REDIS     URL of Redis
SITE_DATABASE  file of the SQLite database
SITE_SOCKETS   with the gateway: its address as pages need it, ws://127.0.0.1:8000/ws/
"""

import os
import runpy
from pathlib import Path

HERE = Path(__file__).resolve().parent.parent

SERVER = os.environ.get("SITE_SERVER", "channels")
REDIS = os.environ.get("SITE_REDIS", "redis://127.0.0.1:6379/0")
SECRET_KEY = "of the tutorial's tests, and of nothing else in the world"
ALLOWED_HOSTS = ["127.0.0.1"]
USE_TZ = True
ROOT_URLCONF = "project.urls"
STATIC_URL = "/static/"
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
# Fast, and only acceptable in tests.
PASSWORD_HASHERS = ["django.contrib.auth.hashers.MD5PasswordHasher"]

INSTALLED_APPS = [
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.sessions",
    "django.contrib.staticfiles",
    "rest_framework",
    "chat",
]
MIDDLEWARE = [
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.middleware.common.CommonMiddleware",
    "django.middleware.csrf.CsrfViewMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
]
REST_FRAMEWORK = {"DEFAULT_AUTHENTICATION_CLASSES": ["rest_framework.authentication.SessionAuthentication"]}
TEMPLATES = [
    {
        "BACKEND": "django.template.backends.django.DjangoTemplates",
        "APP_DIRS": True,
        "OPTIONS": {"context_processors": ["django.template.context_processors.static"]},
    }
]
DATABASES = {
    "default": {
        "ENGINE": "django.db.backends.sqlite3",
        "NAME": os.environ.get("SITE_DATABASE", str(HERE / "site.sqlite3")),
        # Several threads and processes write to the file.
        "OPTIONS": {"timeout": 20},
    }
}
CACHES = {"default": {"BACKEND": "django.core.cache.backends.redis.RedisCache", "LOCATION": REDIS}}
SESSION_ENGINE = "django.contrib.sessions.backends.cache"

LAYERS = {
    "core": "channels_redis.core.RedisChannelLayer",
    "pubsub": "channels_redis.pubsub.RedisPubSubChannelLayer",
}
LAYER = os.environ.get("SITE_LAYER", "core")
CHANNEL_LAYERS = {"default": {"BACKEND": LAYERS[LAYER], "CONFIG": {"hosts": [REDIS]}}}

if SERVER == "channels":
    INSTALLED_APPS.insert(0, "daphne")
    ASGI_APPLICATION = "project.asgi.application"
else:
    WSGI_APPLICATION = "project.wsgi.application"
    INSTALLED_APPS = ["ws4redis", *INSTALLED_APPS]
    MIDDLEWARE += ["ws4redis.middleware.SessionMiddleware"]
    WEBSOCKET_URL = "/ws/"
    WS4REDIS_CONNECTION = {"url": REDIS}
    if LAYER == "core":
        # The gateway's mailboxes, which take 100 events by default.
        CHANNEL_LAYERS["default"]["CONFIG"]["channel_capacity"] = {"gw.*": 10_000}
    SOCKETS = os.environ.get("SITE_SOCKETS")
    # In a checkout the package has a copy of the browser client only after a build.
    runpy.run_path(str(HERE.parents[2] / "python" / "setup.py"))["copy_client"]()
