"""The contract of addresses as data: what a URL means in channels.

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

# Path behind /ws/ -> status, for those that name no facility.
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

# Queries that say subscribe-broadcast and nothing else.
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

# Queries that say nothing: an open and idle socket.
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

# Queries with which what a client says is published on the broadcast channel, or not.
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

# What needs an identity, which an anonymous client has not: no channel, and an open socket.
NEEDS_IDENTITY = ["subscribe-user", "subscribe-group", "subscribe-session"]

# Targets outside the prefix.
ELSEWHERE = ["/ws", "/ws?subscribe-broadcast", "/other?subscribe-broadcast", "/WS/x", "/"]
