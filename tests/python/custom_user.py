"""A site with a custom user model; prints JSON. Arguments: Redis' socket, and WS4REDIS_GROUPS if wanted."""

import json
import sys

import django
from django.conf import settings

path = sys.argv[1]
settings.configure(
    SECRET_KEY="for tests only",
    DATABASES={"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": ":memory:"}},
    CACHES={
        "default": {"BACKEND": "django.core.cache.backends.redis.RedisCache", "LOCATION": f"unix://{path}"}
    },
    SESSION_ENGINE="django.contrib.sessions.backends.cache",
    INSTALLED_APPS=["django.contrib.auth", "django.contrib.contenttypes", "members", "ws4redis"],
    AUTH_USER_MODEL="members.Member",
    DEFAULT_AUTO_FIELD="django.db.models.BigAutoField",
    MIDDLEWARE=[],
    WS4REDIS_CONNECTION={"unix_socket_path": path},
    WS4REDIS_GROUPS=sys.argv[2] if len(sys.argv) > 2 else None,
    USE_TZ=True,
)
django.setup()

from django.contrib.auth import login  # noqa: E402
from django.contrib.sessions.backends.cache import SessionStore  # noqa: E402
from django.core.management import call_command  # noqa: E402
from django.test import RequestFactory  # noqa: E402
from members.models import Member  # noqa: E402

from ws4redis import connection, identity  # noqa: E402
from ws4redis.publisher import RedisPublisher  # noqa: E402
from ws4redis.redis_store import SELF  # noqa: E402

call_command("migrate", run_syncdb=True, verbosity=0)
member = Member(email="jo@example.com", teams="red blue")
member.set_password("secret")
member.save()
request = RequestFactory().get("/")
request.session, request.user = SessionStore(), member
login(request, member, "django.contrib.auth.backends.ModelBackend")


def record():
    """Returns the member's decoded key."""
    return json.loads(connection.client().get(identity.key(request.session["_auth_user_id"])))


found = {
    "session": {name: value for name, value in request.session.items() if name != "ws4redis:written"},
    "first": record(),
    "channels": sorted(
        RedisPublisher(request=request, facility="f", users=[SELF], groups=[SELF])._publishers
    ),
}
member.is_active = False
member.save()
found["second"] = record()
member.delete()
found["third"] = record()
print(json.dumps(found))
