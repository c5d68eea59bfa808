"""The address contract as data: the channels of each URL.

`+` and `%` stand for themselves here: the targets are sent byte for byte, without the prefix `/ws/`.
"""

# Path behind /ws/ -> facility of the broadcast channel.
PATHS = {
    "foobar": "foobar",
    "foobar/": "foobar/",
    "a/b/c": "a/b/c",
    "": "",
    "/x": "/x",
    "ws/x": "ws/x",
    "a%2Fb": "a/b",
    "a%2fb": "a/b",
    "%C3%A9": "é",
    "a+b": "a+b",
    "a%20b": "a b",
    "a:b": "a:b",
    "a%3Ab": "a:b",
    "group:a:b": "group:a:b",
    "{facility}": "{facility}",
    "*": "*",
    "a*b?subscribe-user&": "a*b",
    "[a-z]": "[a-z]",
    "a%3Fb": "a?b",
    "a%23b": "a#b",
    "a%25b": "a%b",
    "../x": "../x",
    "./x": "./x",
    "FooBar": "FooBar",
    "a;b,c=d": "a;b,c=d",
    "a&b": "a&b",
    "%E2%80%8B": "\u200b",
    "x" * 500: "x" * 500,
}

# Path behind /ws/ -> status, for paths without a valid facility.
REFUSED_PATHS = {
    "a%00b": 400,
    "a%0Ab": 400,
    "a%0Db": 400,
    "a%7Fb": 400,
    "%FF": 400,
    "%C3": 400,
    "%C0%AF": 400,
    "%ED%A0%80": 400,
}

# Queries that contain subscribe-broadcast and no other flag.
SUBSCRIBING = [
    "subscribe-broadcast",
    "subscribe-broadcast=",
    "subscribe-broadcast=1",
    "subscribe-broadcast=0",
    "SUBSCRIBE-Broadcast",
    "%20subscribe-broadcast+",
    "subscribe%2Dbroadcast",
    "%73ubscribe-broadcast",
    "foo&subscribe-broadcast&bar=1",
    "&&subscribe-broadcast&",
    "subscribe-broadcast&subscribe-broadcast",
    "echo&subscribe-broadcast",
    "subscribe-broadcast&%FF=x",
]

# Queries without a flag: an open and idle socket.
IDLE = [
    "",
    "?",
    "?foo",
    "?x=subscribe-broadcast",
    "?subscribe_broadcast",
    "?subscribe",
    "?subscribe-broadcast;subscribe-user",
    "?subscribe-broadcasts",
    "?subscribe-broadcast%00",
    "?echo",
    "?publish",
]

# Queries, and whether they let a client publish to the broadcast channel.
PUBLISHING = {
    "publish-broadcast": True,
    "Publish-BROADCAST=0": True,
    "+publish-broadcast": True,
    "echo&publish-broadcast&subscribe-user": True,
    "subscribe-broadcast": False,
    "x=publish-broadcast": False,
    "publish_broadcast": False,
    "publish-user&publish-group&publish-session": False,
}

# Flags that need an identity: an anonymous client gets an open socket without these channels.
NEEDS_IDENTITY = ["subscribe-user", "subscribe-group", "subscribe-session"]

# Targets outside the prefix.
ELSEWHERE = ["/ws", "/ws?subscribe-broadcast", "/other?subscribe-broadcast", "/WS/x", "/"]
