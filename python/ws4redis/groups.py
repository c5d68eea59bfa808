"""The Channels groups that Django code has joined a user to.

They reach the user's sockets in facilities whose rule in the gateway's `[[channels.groups]]` has `joined = true`, open
sockets at once. They replace `channel_layer.group_add(group, channel_name)` in consumers. They are no groups of
`django.contrib.auth`, and give no right to publish.
"""

from __future__ import annotations

import json
import logging
from typing import TYPE_CHECKING, Any, Union, cast
from uuid import UUID

import redis
from asgiref.sync import sync_to_async
from django.db import transaction

from ws4redis import connection, identity, testing
from ws4redis.redis_store import RedisStore, WrongArgument

if TYPE_CHECKING:
    from django.contrib.auth.base_user import AbstractBaseUser

log = logging.getLogger("ws4redis")

# A user, or a primary key.
User = Union["AbstractBaseUser", str, int, UUID]


def add(user: User, *groups: str) -> int:
    """Join a user to groups, until `discard` or the deletion of the user.

    The gateway takes at most 1,000 groups of a user. A transaction that is rolled back does not undo the call; inside of
    one, use `transaction.on_commit`.

    Args:
        user: A user, or a primary key.
        groups: Names of groups, as `channel_layer.group_send` takes them.

    Returns:
        The number of groups that the user was not in. 0 in a test run, which writes nothing.

    Raises:
        TypeError: The user or a name has a wrong type, or a name is empty. The error is a ValueError as well.
        ImproperlyConfigured: As for `ws4redis.identity.namespace`.
        redis.RedisError: Redis is unreachable or refuses a command.
    """
    return _change("sadd", user, groups)


def discard(user: User, *groups: str) -> int:
    """Remove a user from groups.

    Args:
        user: A user, or a primary key.
        groups: Names of groups. The user need not be in them.

    Returns:
        The number of groups that the user was in. 0 in a test run, which writes nothing.

    Raises:
        TypeError: As for `add`.
        ImproperlyConfigured: As for `ws4redis.identity.namespace`.
        redis.RedisError: Redis is unreachable or refuses a command.
    """
    return _change("srem", user, groups)


def of(user: User) -> set[str]:
    """Return the groups of a user. Empty in a test run.

    Raises:
        TypeError: The argument is neither a user nor a primary key. The error is a ValueError as well.
        ImproperlyConfigured: As for `ws4redis.identity.namespace`.
        redis.RedisError: Redis is unreachable or refuses the command.
    """
    name = _key(_id_of(user))
    if testing.is_muted():
        return set()
    members = connection.client().smembers(name)
    # The site may have set decode_responses.
    return {member if isinstance(member, str) else member.decode() for member in members}


async def aadd(user: User, *groups: str) -> int:
    """Join a user to groups as `add` does, for async views.

    Raises:
        TypeError: As for `add`.
        ImproperlyConfigured: As for `add`.
        redis.RedisError: As for `add`.
    """
    return await sync_to_async(add, thread_sensitive=False)(user, *groups)


async def adiscard(user: User, *groups: str) -> int:
    """Remove a user from groups as `discard` does, for async views.

    Raises:
        TypeError: As for `discard`.
        ImproperlyConfigured: As for `discard`.
        redis.RedisError: As for `discard`.
    """
    return await sync_to_async(discard, thread_sensitive=False)(user, *groups)


def delete_on_commit(pk: str, using: str) -> None:
    """Remove a deleted user from all groups when the transaction is committed. An unreachable Redis is logged.

    Args:
        pk: Primary key of the user.
        using: Alias of the database whose transaction counts.

    Raises:
        ImproperlyConfigured: As for `ws4redis.identity.namespace`.
    """
    user_id = identity.qualified(pk)

    def delete() -> None:
        try:
            _write(user_id, "delete")
        except redis.RedisError:
            log.exception("Redis failed; the Channels groups of a deleted user stay at %s", _key(user_id))

    transaction.on_commit(delete, using=using)


def _change(command: str, user: User, groups: tuple[str, ...]) -> int:
    user_id = _id_of(user)
    for group in groups:
        if not isinstance(group, str) or not group:
            raise WrongArgument(f"groups must be names, not {group!r}")
    return _write(user_id, command, *groups) if groups else 0


def _write(user_id: str, command: str, *groups: str) -> int:
    if testing.is_muted():
        testing.warn_once()
        return 0

    def write(client: redis.Redis) -> int:
        with client.pipeline(transaction=True) as pipeline:
            getattr(pipeline, command)(_key(user_id), *groups)
            # Published even if nothing has changed: calling again repairs a gateway that has missed a change.
            pipeline.publish(identity.control_channel(), _invalidation(user_id))
            replies: list[Any] = pipeline.execute()
        return int(replies[0])

    return connection.with_client_of(_key(user_id), write)


def _id_of(user: object) -> str:
    if isinstance(user, bool) or user is None:
        raise WrongArgument(f"user must be a user or a primary key, not {user!r}")
    if isinstance(user, (str, int, UUID)):
        return identity.qualified(str(user))
    # AnonymousUser has no primary key.
    if hasattr(user, "_meta") and getattr(user, "pk", None) is not None:
        return identity.id_of(cast("AbstractBaseUser", user))
    raise WrongArgument(f"user must be a saved user or a primary key, not {type(user).__name__}")


def _key(user_id: str) -> str:
    return f"{RedisStore.get_prefix()}ws4redis:groups:{user_id}"


def _invalidation(user_id: str) -> str:
    return json.dumps({"v": identity.FORMAT, "groups": user_id}, separators=(",", ":"))
