"""The example project. The environment variable SITE_HOME is the directory of its database, sockets and built files."""

import os
import runpy
from pathlib import Path

BASE_DIR = Path(__file__).resolve().parent.parent
HOME = Path(os.environ.get("SITE_HOME", BASE_DIR))

SECRET_KEY = "of the tests of the recipes, and of nothing else in the world"
ALLOWED_HOSTS = ["localhost"]
USE_TZ = True
ROOT_URLCONF = "project.urls"
WSGI_APPLICATION = "project.wsgi.application"
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
LOGIN_REDIRECT_URL = "/notifications/"
# nginx ends TLS.
SECURE_PROXY_SSL_HEADER = ("HTTP_X_FORWARDED_PROTO", "https")
# Fast, and only acceptable in tests.
PASSWORD_HASHERS = ["django.contrib.auth.hashers.MD5PasswordHasher"]

INSTALLED_APPS = [
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.sessions",
    "django.contrib.staticfiles",
    "ws4redis",
    "notifications",
    "chat",
    "progress",
    "items",
    "ops",
]
MIDDLEWARE = [
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.middleware.common.CommonMiddleware",
    "django.middleware.csrf.CsrfViewMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    "ws4redis.middleware.SessionMiddleware",
]
TEMPLATES = [
    {
        "BACKEND": "django.template.backends.django.DjangoTemplates",
        "DIRS": [BASE_DIR / "project" / "templates"],
        "APP_DIRS": True,
        "OPTIONS": {
            "context_processors": [
                "django.template.context_processors.request",
                "django.contrib.auth.context_processors.auth",
                "ws4redis.context_processors.default",
            ]
        },
    }
]
DATABASES = {
    "default": {
        "ENGINE": "django.db.backends.sqlite3",
        "NAME": HOME / "site.sqlite3",
        # The site and the Celery worker write to the file.
        "OPTIONS": {"timeout": 20},
    }
}
STATIC_URL = "/static/"
STATIC_ROOT = HOME / "static"
# The scripts of the libraries, and what Vite has built.
STATICFILES_DIRS = [HOME / "built"]

# Sessions where the gateway can read them.
CACHES = {
    "default": {
        "BACKEND": "django.core.cache.backends.redis.RedisCache",
        "LOCATION": f"unix://{HOME}/redis?db=0",
    }
}
SESSION_ENGINE = "django.contrib.sessions.backends.cache"

WEBSOCKET_URL = "/ws/"
WS4REDIS_CONNECTION = {"url": f"unix:{HOME}/redis"}
WS4REDIS_HISTORY = [{"facility": ["chat-*"], "messages": 100, "seconds": 3600}]
WS4REDIS_GROUPS = "ops.groups.names_of"

CELERY_BROKER_URL = f"redis+socket://{HOME}/redis?virtual_host=1"

# In a checkout the package has a copy of the browser client only after a build.
runpy.run_path(str(BASE_DIR.parents[2] / "python" / "setup.py"))["copy_client"]()
