"""Calls that python-socketio's RedisManager and this package must publish alike.

Run by python-socketio's own Python: publishes each call with a real write-only manager. The argument is the path of
Redis' socket. Prints the payloads as JSON, with `HOST` for the manager's host_id.
"""

import asyncio
import json
import sys
from collections import OrderedDict

HOST = "HOST"
SID = "abcDEF123_sid-AA"


def emit(*arguments, **options):
    return ("emit", arguments, options)


CALLS = {
    "broadcast": emit("my event", {"foo": "bar", "n": 1}),
    "room": emit("my event", {"foo": "bar"}, room="user:42"),
    "to": emit("my event", {"foo": "bar"}, to="user:42"),
    "to and room": emit("my event", "x", to="a", room="b"),
    "list of rooms": emit("my event", "x", room=["a", "b"]),
    "tuple of rooms": emit("my event", "x", to=("a", 1)),
    "int room": emit("my event", "x", room=42),
    "room 0": emit("my event", "x", room=0),
    "room of unicode": emit("my event", "x", room="zażółć 🎉"),
    "skip_sid": emit("my event", "x", skip_sid=SID),
    "list of skip_sid": emit("my event", "x", room="a", skip_sid=[SID, "zzz"]),
    "empty skip_sid": emit("my event", "x", skip_sid=[]),
    "namespace": emit("my event", "x", namespace="/chat"),
    "everything": emit("e", ("x", b"y"), to=["a"], skip_sid=["b"], namespace="/chat"),
    "none": emit("my event", None),
    "empty tuple": emit("my event", ()),
    "tuple of none": emit("my event", (None,)),
    "tuple": emit("my event", ("a", 1, {"x": None})),
    "tuple of one": emit("my event", ("a",)),
    "list": emit("my event", ["a", 1]),
    "empty list": emit("my event", []),
    "tuple of a list": emit("my event", (["a"],)),
    "nested tuple": emit("my event", {"a": (1, (2, 3))}),
    "empty dict": emit("my event", {}),
    "order of keys": emit("my event", OrderedDict([("z", 1), ("a", 2)])),
    "keys": emit("my event", {1: 1, 1.5: 2, False: 3, None: 4, "ü": 5}),
    "false": emit("my event", False),
    "zero": emit("my event", 0),
    "empty string": emit("my event", ""),
    "numbers": emit("my event", [1.5, -7, 2**40, 2**70, 1e300, 1e-7, -0.0, 0.1]),
    "unicode": emit("zażółć", {"s": 'Grüße 🎉\u2028\x00\x7f"\\/'}),
    "lone surrogate": emit("my event", "\ud800"),
    "empty event": emit("", "x"),
    "placeholder without bytes": emit("my event", {"_placeholder": True, "num": 0}),
    "bytes": emit("my event", b"\x00\x01\xff"),
    "empty bytes": emit("my event", b""),
    "bytearray": emit("my event", bytearray(b"\x01\x02")),
    "tuple with bytes": emit("my event", ("x", b"\x01")),
    "tuple of bytes": emit("my event", (b"\x01", b"\x02", b"\x01")),
    "list of bytes": emit("my event", [b"\x01"]),
    "nested bytes": emit(
        "my event", {"name": "f.png", "body": b"\x89PNG", "list": [b"\x00", 1, [{"b": b"-"}]]}
    ),
    "many bytes": emit("my event", bytes(range(256)) * 500),
    "enter_room": ("enter_room", (SID, "/", "room-a"), {}),
    "enter_room by keywords": ("enter_room", (), {"sid": SID, "namespace": "/chat", "room": 42}),
    "enter_room without a namespace": ("enter_room", (SID, None, "room-a"), {}),
    "leave_room": ("leave_room", (SID, "/", "room-a"), {}),
    "leave_room in a namespace": ("leave_room", (SID, "/chat", "room-a"), {}),
    "close_room": ("close_room", ("room-a",), {}),
    "close_room in a namespace": ("close_room", ("room-a",), {"namespace": "/chat"}),
    "disconnect": ("disconnect", (SID,), {}),
    "disconnect from a namespace": ("disconnect", (SID, "/chat"), {}),
}

# Arguments of acknowledgements.
CALLBACKS = {
    "no arguments": (),
    "one argument": ({"ok": True},),
    "several arguments": ("ż€🎉", [1, None, 1.5], False),
    "a list": (["a"],),
}
CALLBACK_ID = 7


def main():
    import redis
    import socketio

    url = f"unix://{sys.argv[1]}"
    ear = redis.Redis.from_url(url).pubsub()
    ear.subscribe("socketio")
    ear.get_message(timeout=10)
    manager = socketio.RedisManager(url, write_only=True)
    payloads = {}
    for name, (method, arguments, options) in CALLS.items():
        host = manager.host_id
        if method == "disconnect":
            # The disconnect of a write-only manager fails before it publishes; this one is meant for the same.
            other = socketio.AsyncRedisManager(url, write_only=True)
            host = other.host_id
            sid, namespace = (*arguments, None)[:2]
            asyncio.run(other.can_disconnect(sid, namespace))
        else:
            getattr(manager, method)(*arguments, **options)
        message = ear.get_message(timeout=10)
        payloads[name] = message["data"].decode().replace(host, HOST)
    for name, arguments in CALLBACKS.items():
        manager._return_callback(HOST, SID, "/chat", CALLBACK_ID, *arguments)
        payloads[name] = ear.get_message(timeout=10)["data"].decode()
    print(json.dumps(payloads))


if __name__ == "__main__":
    main()
