"""Runs code in a process of its own, as a task queue or `manage.py shell` does.

Each input line is a JSON string with the code; each output line is JSON with its variable `answer`, or its error.
"""

import json
import sys
import traceback

import django

django.setup()

from importlib import import_module  # noqa: E402

from chat.people import make_people  # noqa: E402
from django.conf import settings  # noqa: E402
from django.contrib.auth.models import Group, User  # noqa: E402

from ws4redis import identity, session_engine  # noqa: E402
from ws4redis.publisher import RedisPublisher  # noqa: E402

NAMES = {
    "Group": Group,
    "RedisPublisher": RedisPublisher,
    "SessionStore": import_module(settings.SESSION_ENGINE).SessionStore,
    "User": User,
    "identity": identity,
    "make_people": make_people,
    "session_engine": session_engine,
}

for line in sys.stdin:
    names = dict(NAMES)
    try:
        exec(json.loads(line), names)
        reply = {"answer": names.get("answer")}
    except Exception:
        reply = {"error": traceback.format_exc()}
    print(json.dumps(reply), flush=True)
