"""The two layers of channels_redis, as far as sending to a group goes: their keys, channels and bytes.

Receiving, `send` to a single channel and `group_add` are not here: consumers keep the layers themselves.
"""

from __future__ import annotations

import base64
import fnmatch
import hashlib
import json
import logging
import re
import secrets
import time
from binascii import crc32
from collections.abc import Callable, Iterable, Mapping
from importlib import import_module
from typing import Any, Final

import redis
from django.core.exceptions import ImproperlyConfigured
from redis.sentinel import Sentinel, SentinelConnectionPool

from ws4redis import connection, testing
from ws4redis.redis_store import WrongArgument

log = logging.getLogger("ws4redis")

DEFAULT_HOST: Final = {"address": "redis://localhost:6379"}

# Defaults of the core layer.
EXPIRY_SECONDS: Final = 60
GROUP_EXPIRY_SECONDS: Final = 86400
CAPACITY: Final = 100
RANDOM_BYTES: Final = 12
# Key of the receivers in an event of the core layer.
RECEIVERS: Final = "__asgi_channel__"
# The core layer refuses other names of groups.
GROUP_FORM: Final = re.compile(r"[a-zA-Z0-9\-_.]{1,99}")

# Sends to a group on one server, in one round trip. KEYS: the group. ARGV: time, until when members and events have
# expired, seconds that an event lives, prefix, event up to its receivers, serializer, capacity, and pairs of a Lua
# pattern and its capacity. Returns the number of mailboxes, and of those that have the event.
SEND: Final = """
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', ARGV[2])
local mailboxes, receivers = {}, {}
for _, member in ipairs(redis.call('ZRANGE', KEYS[1], 0, -1)) do
    local mailbox = ARGV[5] .. string.sub(member, 1, string.find(member, '!', 1, true) or -1)
    if not receivers[mailbox] then
        receivers[mailbox] = {}
        table.insert(mailboxes, mailbox)
    end
    table.insert(receivers[mailbox], member)
end
local delivered = 0
for _, mailbox in ipairs(mailboxes) do
    local capacity = ARGV[8]
    for i = #ARGV - 1, 9, -2 do
        if string.find(receivers[mailbox][1], ARGV[i]) then capacity = ARGV[i + 1] end
    end
    redis.call('ZREMRANGEBYSCORE', mailbox, '-inf', ARGV[3])
    if redis.call('ZCARD', mailbox) < tonumber(capacity) then
        local event
        if ARGV[7] == 'json' then
            event = ARGV[6] .. cjson.encode(receivers[mailbox]) .. '}'
        else
            event = ARGV[6] .. cmsgpack.pack(receivers[mailbox])
        end
        redis.call('ZADD', mailbox, ARGV[1], event)
        redis.call('EXPIRE', mailbox, ARGV[4])
        delivered = delivered + 1
    end
end
return {#mailboxes, delivered}
"""

# Delivers events that Python has made, for encrypted layers and several servers. KEYS: the mailboxes. ARGV: time, until
# when events have expired, seconds that an event lives, and for each mailbox its capacity and event. Returns the number
# of mailboxes that have the event. Count and addition are one step, so that publishers do not exceed the capacity.
DELIVER: Final = """
local delivered = 0
for i, mailbox in ipairs(KEYS) do
    redis.call('ZREMRANGEBYSCORE', mailbox, '-inf', ARGV[2])
    if redis.call('ZCARD', mailbox) < tonumber(ARGV[2 * i + 2]) then
        redis.call('ZADD', mailbox, ARGV[1], ARGV[2 * i + 3])
        redis.call('EXPIRE', mailbox, ARGV[3])
        delivered = delivered + 1
    end
end
return delivered
"""


class PubSubLayer:
    """One PUBLISH per event: the channel of a group is `PREFIX__group__GROUP`."""

    def __init__(
        self,
        hosts: Iterable[object] | None = None,
        prefix: str = "asgi",
        symmetric_encryption_keys: object = None,
        serializer_format: str = "msgpack",
        **ignored: object,
    ) -> None:
        """Take the `CONFIG` of the layer; open no connection yet.

        Raises:
            TypeError: An argument has a wrong type.
            ValueError: An argument has a wrong value.
            ImproperlyConfigured: The serializer is unknown, or a package is missing.
        """
        # The layer ignores unknown arguments, too; its on_disconnect and on_reconnect are for receivers.
        self._prefix = prefix
        self._serialize = _serializer(serializer_format, symmetric_encryption_keys)
        self._shards = [redis.Redis(connection_pool=pool_of(host)) for host in hosts_of(hosts)]

    def group_send(self, group: str, event: Mapping[str, Any]) -> int:
        """Publish an event; return the number of processes that listen to the group.

        Raises:
            TypeError: The event cannot be serialized.
            redis.RedisError: Redis is unreachable or refuses the command.
        """
        channel = f"{testing.isolated(self._prefix)}__group__{group}"
        payload = self._serialize(dict(event))
        if testing.intercept([channel], payload, 0):
            return 0
        receivers: Any = self._shards[_shard_of(channel, len(self._shards))].publish(channel, payload)
        return int(receivers)


class CoreLayer:
    """Sorted sets: `PREFIX:group:GROUP` has the members of a group, `PREFIX` plus a process the events for it.

    A member is `PROCESS!CHANNEL`. The score of a member is the time at which it joined, that of an event the time at
    which it was sent.
    """

    def __init__(
        self,
        hosts: Iterable[object] | None = None,
        prefix: str = "asgi",
        expiry: int = EXPIRY_SECONDS,
        group_expiry: int = GROUP_EXPIRY_SECONDS,
        capacity: int = CAPACITY,
        channel_capacity: Mapping[Any, int] | None = None,
        symmetric_encryption_keys: object = None,
        random_prefix_length: int = RANDOM_BYTES,
        serializer_format: str = "msgpack",
    ) -> None:
        """Take the `CONFIG` of the layer; open no connection yet.

        Raises:
            TypeError: An argument is unknown, or has a wrong type.
            ValueError: An argument has a wrong value.
            ImproperlyConfigured: The serializer is unknown, or a package is missing.
        """
        self._prefix = prefix
        self._expiry = expiry
        self._group_expiry = group_expiry
        self._capacity = capacity
        self._capacities = [(_pattern(name), count) for name, count in (channel_capacity or {}).items()]
        self._random_bytes = random_prefix_length
        self._serializer = serializer_format
        self._serialize = _serializer(serializer_format, symmetric_encryption_keys)
        self._shards = [redis.Redis(connection_pool=pool_of(host)) for host in hosts_of(hosts)]
        self._send = self._shards[0].register_script(SEND)
        self._deliver = self._shards[0].register_script(DELIVER)
        patterns = {_lua_pattern(name): count for name, count in (channel_capacity or {}).items()}
        self._lua_capacities = [
            word for pattern, count in patterns.items() for word in (pattern or "", count)
        ]
        self._fits_one_script = (
            len(self._shards) == 1 and not symmetric_encryption_keys and None not in patterns
        )

    def group_send(self, group: str, event: Mapping[str, Any]) -> int:
        """Add an event to the mailboxes of a group; return the number of processes whose mailbox was not full.

        Raises:
            TypeError: The group is no valid name, or the event cannot be serialized.
            redis.RedisError: Redis is unreachable or refuses a command.
        """
        if not GROUP_FORM.fullmatch(group):
            raise WrongArgument(
                f"group {group!r} must have 1 to 99 characters of ASCII letters, digits, hyphen, underscore and period"
            )
        prefix = testing.isolated(self._prefix)
        name = f"{prefix}:group:{group}"
        body = {key: value for key, value in event.items() if key != RECEIVERS}
        if testing.is_observed() and testing.intercept([name], self._serialize(body), 0):
            return 0
        now = time.time()
        if self._fits_one_script:
            mailboxes, delivered = self._send_by_script(prefix, name, body, now)
        else:
            mailboxes, delivered = self._send_by_steps(prefix, group, body, now)
        if delivered < mailboxes:
            log.info(
                "%d of %d mailboxes of group %s are full; their processes miss the event. "
                "Increase capacity or channel_capacity in CHANNEL_LAYERS",
                mailboxes - delivered,
                mailboxes,
                group,
            )
        return delivered

    def _send_by_script(self, prefix: str, name: str, body: dict[str, Any], now: float) -> tuple[int, int]:
        # The receivers come last, and Redis knows them: it appends them, and for JSON the brace.
        end = len(b"null}" if self._serializer == "json" else b"\xc0")
        event = self._random() + self._serialize({**body, RECEIVERS: None})[:-end]
        times = [now, now - self._group_expiry, now - self._expiry, self._expiry]
        layer = [prefix, event, self._serializer, self._capacity]
        arguments: list[Any] = [*times, *layer, *self._lua_capacities]
        mailboxes, delivered = self._send([name], arguments)
        return int(mailboxes), int(delivered)

    def _send_by_steps(self, prefix: str, group: str, body: dict[str, Any], now: float) -> tuple[int, int]:
        mailboxes: dict[str, list[str]] = {}
        for member in self._members(group, f"{prefix}:group:{group}", now):
            process, mark, _ = member.partition("!")
            mailboxes.setdefault(process + mark, []).append(member)
        delivered = 0
        for shard, keys, arguments in self._deliveries(prefix, mailboxes, body):
            times: list[Any] = [now, now - self._expiry, self._expiry]
            delivered += int(self._deliver(keys, times + arguments, client=shard))
        return len(mailboxes), delivered

    def _members(self, group: str, name: str, now: float) -> list[str]:
        pipeline = self._shards[_shard_of(group, len(self._shards))].pipeline(transaction=False)
        # Processes that were killed stay in the group until then.
        pipeline.zremrangebyscore(name, "-inf", now - self._group_expiry)
        pipeline.zrange(name, 0, -1)
        members: list[bytes | str] = pipeline.execute()[1]
        # The site may have set decode_responses.
        return [member if isinstance(member, str) else member.decode() for member in members]

    def _deliveries(
        self, prefix: str, mailboxes: Mapping[str, list[str]], body: dict[str, Any]
    ) -> Iterable[tuple[redis.Redis, list[str], list[int | bytes]]]:
        """Yield each shard that has mailboxes, with their keys, and with their capacities and events."""
        deliveries: dict[int, tuple[list[str], list[int | bytes]]] = {}
        for mailbox, members in mailboxes.items():
            shard = _shard_of(mailbox, len(self._shards))
            keys, arguments = deliveries.setdefault(shard, ([], []))
            keys.append(prefix + mailbox)
            event = self._random() + self._serialize({**body, RECEIVERS: members})
            arguments += [self._capacity_of(members[0]), event]
        for shard, (keys, arguments) in deliveries.items():
            yield self._shards[shard], keys, arguments

    def _random(self) -> bytes:
        # They keep equal events apart: members of a sorted set are unique.
        return secrets.token_bytes(self._random_bytes)

    def _capacity_of(self, channel: str) -> int:
        return next((count for pattern, count in self._capacities if pattern.match(channel)), self._capacity)


def hosts_of(hosts: Iterable[object] | None) -> list[object]:
    """Return the hosts in their order, or the layers' default.

    Raises:
        ValueError: The argument is a string.
    """
    if isinstance(hosts, (str, bytes)):
        raise ValueError("hosts must be a list, even with one host")
    return list(hosts or [DEFAULT_HOST])


def pool_of(host: object) -> redis.ConnectionPool:
    """Return a pool for one of the forms of hosts: a URL, host and port, or arguments of redis-py.

    Raises:
        TypeError: redis-py does not know an argument.
        ValueError: redis-py cannot parse the URL.
    """
    if isinstance(host, Mapping):
        arguments = dict(host)
    elif isinstance(host, (tuple, list)):
        arguments = {"host": host[0], "port": host[1]}
    else:
        arguments = {"address": host}
    if "address" in arguments:
        arguments["url"] = arguments.pop("address")
    if "master_name" not in arguments:
        return connection.new_pool(arguments)
    name, sentinels = arguments.pop("master_name"), arguments.pop("sentinels")
    sentinel = Sentinel(sentinels, sentinel_kwargs=arguments.pop("sentinel_kwargs", None))
    return SentinelConnectionPool(name, sentinel, **connection.with_timeouts(arguments))


def _shard_of(name: str, count: int) -> int:
    # The formula of channels_redis: publishers and receivers have to agree.
    return int((crc32(name.encode()) & 0xFFF) / (4096 / count)) if count > 1 else 0


def _pattern(name: Any) -> re.Pattern[str]:  # noqa: ANN401 - a glob or a compiled pattern
    return name if hasattr(name, "match") else re.compile(fnmatch.translate(name))


def _lua_pattern(name: Any) -> str | None:  # noqa: ANN401 - a glob or a compiled pattern
    """Return a glob as a pattern of Lua; None for forms without a simple equivalent."""
    if not isinstance(name, str) or "[" in name:
        return None
    parts = {"*": ".*", "?": "."}
    return "^" + "".join(parts.get(sign) or re.sub(r"\W", r"%\g<0>", sign) for sign in name) + "$"


def _serializer(name: str, keys: object) -> Callable[[dict[str, Any]], bytes]:
    """Return the function that makes the bytes of an event, encrypted with the first key."""
    if name == "msgpack":
        try:
            encode = import_module("msgpack").packb
        except ImportError:
            raise ImproperlyConfigured(
                "the package msgpack is missing; channels_redis installs it: pip install msgpack"
            ) from None
    elif name == "json":

        def encode(event: dict[str, Any]) -> bytes:
            return json.dumps(event).encode()

    else:
        raise ImproperlyConfigured(
            f"serializer_format {name!r} of CHANNEL_LAYERS is unknown; msgpack and json are supported"
        )
    encrypt = _encryption(keys)

    def serialize(event: dict[str, Any]) -> bytes:
        try:
            return encrypt(encode(event))
        except (TypeError, ValueError, OverflowError, RecursionError) as error:
            raise WrongArgument(f"event cannot be serialized by {name}: {error}") from error

    return serialize


def _encryption(keys: Any) -> Callable[[bytes], bytes]:  # noqa: ANN401 - a list of texts or bytes, or None
    if not keys:
        return bytes
    if isinstance(keys, (str, bytes)):
        raise ValueError("symmetric_encryption_keys must be a list")
    try:
        fernet = import_module("cryptography.fernet").Fernet
    except ImportError:
        raise ImproperlyConfigured(
            "symmetric_encryption_keys needs the package cryptography: pip install cryptography"
        ) from None
    # Receivers try all keys; the first one encrypts.
    key = keys[0].encode() if isinstance(keys[0], str) else keys[0]
    encrypt: Callable[[bytes], bytes] = fernet(base64.urlsafe_b64encode(hashlib.sha256(key).digest())).encrypt
    return encrypt
