"""Who is online, as the gateways keep it in Redis: the users of the site and the visitors of facilities.

The gateway's `[[presence]]` tables select the facilities; see "Who is online" in docs/django.md. Every function reads
Redis once. Entries of a gateway that was killed count for at most `presence.seconds` longer. In a test run nobody is
online, and Redis is not read, except within `ws4redis.testing.redis_for_tests`.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Final, Union, cast
from uuid import UUID

from ws4redis import connection, testing
from ws4redis.redis_store import RedisStore, WrongArgument, user_name

if TYPE_CHECKING:
    from django.contrib.auth.base_user import AbstractBaseUser
    from django.contrib.auth.models import AnonymousUser

# A user, or the name as in channels: a primary key for gateways with `session.user = "pk"`.
User = Union["AbstractBaseUser", "AnonymousUser", str, int, UUID]

# Length of the gateway's id, which precedes the name of a user or the number of anonymous visitors.
_GATEWAY_DIGITS: Final = 12


def is_online(user: User) -> bool:
    """Return True if the user has an open connection: a WebSocket, an event stream or a Socket.IO client.

    A user counts for 5 seconds after the last connection has closed, since a page that is loaded again opens a new one.

    Raises:
        TypeError: The argument is neither a user nor a name. The error is a ValueError as well.
        redis.RedisError: Redis is unreachable or refuses the command.
    """
    name = _name(user)
    if name is None or testing.is_muted():
        return False
    return connection.client().zcount(_key(f"online:{name}"), _now(), "+inf") > 0


def online() -> set[str]:
    """Return the names of all users who are online.

    Raises:
        redis.RedisError: Redis is unreachable or refuses the command.
    """
    return set(_valid_members("online"))


def sids(user: User) -> set[str]:
    """Return the public IDs of the user's open connections.

    Those of Socket.IO clients are the sids that `ws4redis.socketio.Emitter` accepts. The ID of a connection that has
    closed may be among them for 5 seconds.

    Raises:
        TypeError: The argument is neither a user nor a name. The error is a ValueError as well.
        redis.RedisError: Redis is unreachable or refuses the command.
    """
    name = _name(user)
    return set() if name is None else set(_valid_members(f"online:{name}"))


def users(facility: str) -> set[str]:
    """Return the names of the users with an open connection to a facility, or to a namespace of Socket.IO.

    Args:
        facility: Name of a facility that a `[[presence]]` table matches, or of a namespace, such as `/chat`.

    Raises:
        TypeError: The facility is not a string. The error is a ValueError as well.
        redis.RedisError: Redis is unreachable or refuses the command.
    """
    return _visitors(facility)[0]


def count(facility: str) -> int:
    """Return the number of visitors of a facility: its users, plus the connections of anonymous visitors.

    Args:
        facility: Name of a facility that a `[[presence]]` table matches, or of a namespace, such as `/chat`.

    Raises:
        TypeError: The facility is not a string. The error is a ValueError as well.
        redis.RedisError: Redis is unreachable or refuses the command.
    """
    names, anonymous = _visitors(facility)
    return len(names) + anonymous


def _visitors(facility: str) -> tuple[set[str], int]:
    if not isinstance(facility, str):
        raise WrongArgument(f"facility must be a str, not {type(facility).__name__}")
    names, anonymous = set(), 0
    for member in _valid_members(f"presence:{facility}"):
        kind, rest = member[_GATEWAY_DIGITS : _GATEWAY_DIGITS + 1], member[_GATEWAY_DIGITS + 1 :]
        if kind == "/":
            names.add(rest)
        elif kind == "#" and rest.isdigit():
            anonymous += int(rest)
    return names, anonymous


def _name(user: object) -> str | None:
    """Return the name as in channels; None for AnonymousUser and for a user without a name."""
    if isinstance(user, bool) or user is None:
        raise WrongArgument(f"user must be a user or a name, not {user!r}")
    if isinstance(user, (str, int, UUID)):
        return str(user)
    if hasattr(user, "get_username"):
        return user_name(cast("AbstractBaseUser", user))
    raise WrongArgument(f"user must be a user or a name, not {type(user).__name__}")


def _key(name: str) -> str:
    return f"{RedisStore.get_prefix()}ws4redis:{name}"


def _now() -> float:
    """Return the time before which entries are stale: a gateway writes until when each is valid."""
    return time.time()


def _valid_members(name: str) -> list[str]:
    if testing.is_muted():
        return []
    members = cast("list[bytes | str]", connection.client().zrangebyscore(_key(name), _now(), "+inf"))
    # The site may have set decode_responses.
    return [member if isinstance(member, str) else member.decode() for member in members]
