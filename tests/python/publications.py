"""Publishes and fetches, each case after an ECHO of its name; runs with either package.

Arguments: the path of Redis' socket, and the settings as JSON. Prints the results of the cases as JSON.
"""

import json
import sys
import warnings
from uuid import UUID

from django.conf import settings
from django.utils.functional import lazystr

path, given = sys.argv[1:]
settings.configure(
    WS4REDIS_CONNECTION={"unix_socket_path": path, "db": 0, "password": None},
    INSTALLED_APPS=["django.contrib.auth", "django.contrib.contenttypes", "django.contrib.sessions"],
    **json.loads(given),
)
warnings.simplefilter("ignore")

import redis  # noqa: E402

from ws4redis.publisher import RedisPublisher  # noqa: E402
from ws4redis.redis_store import SELF, RedisMessage  # noqa: E402

KEY = "wnqd0gbw5obpnj50zwh6yaq2yz4o8g9x"


class User:
    is_authenticated = True

    def get_username(self):
        return "jörg"


class Session(dict):
    session_key = KEY


class Request:
    user = User()
    session = Session({"ws4redis:memberof": ["chatusers", "red team"]})


hello = RedisMessage("Hello")
PUBLICATIONS = {
    "broadcast": ({"facility": "foobar", "broadcast": True}, hello, {}),
    "expire": ({"facility": "foobar", "broadcast": True}, hello, {"expire": 10}),
    "not kept": ({"facility": "foobar", "broadcast": True}, hello, {"expire": 0}),
    "negative": ({"facility": "foobar", "broadcast": True}, hello, {"expire": -1}),
    "users": ({"facility": "foobar", "users": ["john", "mary"]}, hello, {"expire": 10}),
    "a tuple": ({"facility": "foobar", "users": ("john", "john")}, hello, {}),
    "groups": ({"facility": "foobar", "groups": ["chatters", "red team"]}, hello, {}),
    "sessions": ({"facility": "foobar", "sessions": [KEY]}, hello, {}),
    "all audiences": (
        {"facility": "foobar", "broadcast": True, "users": ["j"], "groups": ["g"], "sessions": ["k"]},
        hello,
        {},
    ),
    "self": (
        {
            "request": Request(),
            "facility": "f",
            "users": [SELF, "mary"],
            "groups": [SELF],
            "sessions": [SELF],
        },
        hello,
        {},
    ),
    "true": (
        {"request": Request(), "facility": "f", "users": True, "groups": True, "sessions": True},
        hello,
        {},
    ),
    "false": ({"facility": "f", "users": False, "groups": False, "sessions": False}, hello, {}),
    "nobody": (
        {"facility": "f", "users": True, "groups": True, "sessions": True, "broadcast": True},
        hello,
        {},
    ),
    "no facility": ({"broadcast": True}, hello, {}),
    "empty facility": ({"facility": "", "broadcast": True}, hello, {}),
    "odd facility": ({"facility": "a/b:c é {x}", "broadcast": True, "users": ["a:b", "é"]}, hello, {}),
    "a number": ({"facility": 5, "broadcast": True}, hello, {}),
    "a UUID": ({"facility": UUID(int=7), "broadcast": True}, hello, {}),
    "a lazy name": ({"facility": lazystr("f"), "broadcast": True, "users": ["j"]}, hello, {}),
    "expire is False": ({"facility": "foobar", "broadcast": True}, hello, {"expire": False}),
    "nothing": ({}, hello, {}),
    "unicode": ({"facility": "f", "broadcast": True}, RedisMessage("Grüße \U0001f600"), {}),
    "binary": ({"facility": "f", "broadcast": True}, RedisMessage(b"\x00\xff\x01\r\n"), {}),
    "bytearray": ({"facility": "f", "broadcast": True}, RedisMessage(bytearray(b"x")), {}),
    "received": ({"facility": "f", "broadcast": True}, RedisMessage([b"message", b"c", b"data"]), {}),
    "empty": ({"facility": "f", "broadcast": True}, RedisMessage(""), {}),
    "no message": ({"facility": "f", "broadcast": True}, RedisMessage({}), {}),
    "the heartbeat": ({"facility": "f", "broadcast": True}, RedisMessage("--heartbeat--"), {}),
    "a list of the wrong type": ({"facility": "f", "users": 5}, hello, {}),
}
FETCHES = {
    audience: (Request(), "foobar", audience)
    for audience in ("any", "session", "user", "group", "broadcast", "x")
}
FETCHES["nobody"] = (None, "foobar", "any")

results = {}
client = redis.Redis(unix_socket_path=path)


def case(name, function):
    """Runs one case; a ValueError is a result, any other exception an error of the test."""
    client.echo(name)
    try:
        results[name] = repr(function())
    except ValueError:
        results[name] = "ValueError"


for name, (arguments, message, options) in PUBLICATIONS.items():
    # django-websocket-redis returns nothing, this package the number of receivers.
    case(name, lambda a=arguments, m=message, o=options: RedisPublisher(**a).publish_message(m, **o) and None)
results = {name: "None" if result == "0" else result for name, result in results.items()}
for name, arguments in FETCHES.items():
    case(f"fetch {name}", lambda a=arguments: RedisPublisher().fetch_message(*a))
print(json.dumps(results))
