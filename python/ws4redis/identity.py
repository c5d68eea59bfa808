"""Facts about users for the gateway: session fields, a key per user, and invalidation messages on a control channel.

docs/django-keys.md specifies the formats. An invalidation message makes the gateway re-read a user or a session.
"""

from __future__ import annotations

import hashlib
import json
import logging
import re
import time
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, Final, cast

import redis
from django.conf import settings as django_settings
from django.contrib.auth import HASH_SESSION_KEY, get_backends, get_user_model
from django.core.exceptions import ImproperlyConfigured, ValidationError
from django.db import router, transaction
from django.utils.module_loading import import_string

from ws4redis import connection, settings, testing
from ws4redis.redis_store import MEMBEROF, RedisStore, user_name

if TYPE_CHECKING:
    from django.contrib.auth.base_user import AbstractBaseUser
    from django.contrib.sessions.backends.base import SessionBase
    from django.http import HttpRequest

log = logging.getLogger("ws4redis")

FORMAT: Final = 1
USERNAME: Final = "ws4redis:username"
# Tenant of the user; part of the name of the user's key.
NAMESPACE: Final = "ws4redis:namespace"
# Unix time in seconds at which the fields were written; the middleware rewrites old fields.
WRITTEN: Final = "ws4redis:written"
# The session's `_auth_user_hash` at that time. Django replaces the hash when SECRET_KEY changes.
HASH: Final = "ws4redis:hash"
# The gateway accepts no other session keys. The "key" of a signed cookie is the whole session.
SESSION_KEY_FORM: Final = re.compile(r"[0-9A-Za-z]{8,64}")
# Bound of the optimistic locking in _write, for concurrent changes of one user.
MAX_ATTEMPTS: Final = 20
MAX_NAMESPACE: Final = 256


def key(pk: str) -> str:
    """Return the name of the user's key in Redis.

    Raises:
        ImproperlyConfigured: As for `namespace`.
    """
    return f"{RedisStore.get_prefix()}ws4redis:identity:{qualified(pk)}"


def namespace() -> str | None:
    """Return the current tenant according to `WS4REDIS_IDENTITY_NAMESPACE`, or None without one.

    Raises:
        ImproperlyConfigured: The function returned something else than a string that can be part of a key.
    """
    setting: Any = settings.WS4REDIS_IDENTITY_NAMESPACE
    if setting is None:
        return None
    function = import_string(setting) if isinstance(setting, str) else setting
    name: Any = function()
    if name is None or name == "":
        return None
    if not isinstance(name, str) or ":" in name or len(name) > MAX_NAMESPACE:
        raise ImproperlyConfigured(
            f"WS4REDIS_IDENTITY_NAMESPACE must return a string without colons, of at most {MAX_NAMESPACE} characters"
        )
    return name


def qualified(pk: str) -> str:
    """Return the gateway's identifier of a user: `PK`, or `TENANT:PK` with a tenant.

    Raises:
        ImproperlyConfigured: As for `namespace`.
    """
    tenant = namespace()
    return pk if tenant is None else f"{tenant}:{pk}"


def id_of(user: AbstractBaseUser) -> str:
    """Return the gateway's identifier of a user, as `qualified` does.

    Raises:
        ImproperlyConfigured: As for `namespace`.
    """
    return qualified(pk_of(user))


def control_channel() -> str:
    """Return the name of the channel for invalidation messages."""
    return f"{RedisStore.get_prefix()}ws4redis:control"


def ttl_seconds() -> int:
    """Return how long a user's key lives after its last change, in seconds.

    The key must outlive each session that it overrides. The middleware rewrites a session's fields after half of
    SESSION_COOKIE_AGE, and the session then lives for one SESSION_COOKIE_AGE.
    """
    setting = settings.WS4REDIS_IDENTITY_SECONDS
    return max(
        int(django_settings.SESSION_COOKIE_AGE), int(setting or 2 * django_settings.SESSION_COOKIE_AGE)
    )


def pk_of(user: AbstractBaseUser) -> str:
    """Return the primary key in the form of a session's `_auth_user_id`."""
    model = get_user_model()
    # The primary key of a subclass is its link to the parent; sessions contain the parent's.
    field = (model if isinstance(user, model) else user)._meta.pk
    return str(field.value_to_string(user))


def database() -> str:
    """Return the alias of the database that users are written to."""
    return router.db_for_write(get_user_model())


def group_names(user: AbstractBaseUser) -> list[str]:
    """Return the names of the user's groups according to `WS4REDIS_GROUPS` or `user.groups`, sorted and unique."""
    setting: Any = settings.WS4REDIS_GROUPS
    if setting is not None:
        function = import_string(setting) if isinstance(setting, str) else setting
        return _unique_names(function(user))
    groups = getattr(user, "groups", None)
    return _unique_names(group.name for group in groups.all()) if groups is not None else []


def _unique_names(names: Iterable[object]) -> list[str]:
    # All groups without a name would share one channel.
    return sorted({str(name) for name in names if name is not None and str(name)})


def write_session_fields(session: SessionBase, user: AbstractBaseUser) -> None:
    """Write the user's name, groups and tenant into the session. The caller saves it.

    Raises:
        ImproperlyConfigured: As for `namespace`.
    """
    # None for a user without a username, who gets no user channel.
    session[USERNAME] = user_name(user)
    tenant = namespace()
    if tenant is not None:
        session[NAMESPACE] = tenant
    elif NAMESPACE in session:
        del session[NAMESPACE]
    if settings.WS4REDIS_GROUPS is not None or hasattr(user, "groups"):
        session[MEMBEROF] = group_names(user)
    session[WRITTEN] = int(time.time())
    session[HASH] = session.get(HASH_SESSION_KEY)


def is_fresh(session: SessionBase) -> bool:
    """Return True if the session has the fields of its current login and tenant, and they are recent.

    Raises:
        ImproperlyConfigured: As for `namespace`.
    """
    written = session.get(WRITTEN)
    return (
        USERNAME in session
        and isinstance(written, int)
        and time.time() - written < django_settings.SESSION_COOKIE_AGE / 2
        and session.get(HASH) == session.get(HASH_SESSION_KEY)
        and session.get(NAMESPACE) == namespace()
    )


def refresh(*users: object, reason: str = "refresh", force: bool = False) -> int:
    """Write the keys of users from the database, and publish invalidation messages.

    Call this after changes for which Django sends no signal: `QuerySet.update()`, bulk methods, SQL.

    Args:
        users: Users or primary keys.
        reason: Reason in the message; the gateway logs it.
        force: Publish a message for users whose key has not changed, too.

    Returns:
        The number of keys that changed. 0 in a test run, which writes nothing.

    Raises:
        redis.RedisError: Redis is unreachable or refuses a command. The keys before the failing one are written.
        ImproperlyConfigured: As for `namespace`.
    """
    if testing.is_muted():
        testing.warn_once()
        return 0
    pks = [pk_of(cast("AbstractBaseUser", user)) if hasattr(user, "_meta") else str(user) for user in users]
    return sum(_write(pk, reason, force) for pk in dict.fromkeys(pks))


def pks_with_key() -> list[str]:
    """Return the primary keys of all users with a key in Redis, found by SCAN. Empty in a test run.

    Raises:
        redis.RedisError: Redis is unreachable or refuses the command.
        ImproperlyConfigured: As for `namespace`.
    """
    if testing.is_muted():
        return []
    start = key("")
    pattern = re.sub(r"([\\*?\[\]])", r"\\\1", start) + "*"
    names: Iterable[str | bytes] = connection.client().scan_iter(match=pattern, count=1000)
    pks = [(name.decode() if isinstance(name, bytes) else name)[len(start) :] for name in names]
    return [pk for pk in pks if _is_pk(pk)]


def _is_pk(text: str) -> bool:
    if settings.WS4REDIS_IDENTITY_NAMESPACE is not None and ":" in text and namespace() is None:
        # The key belongs to a user of a tenant.
        return False
    try:
        get_user_model()._meta.pk.to_python(text)
    except ValidationError:
        return False
    return True


def refresh_on_commit(pks: Iterable[str], reason: str, using: str | None = None) -> None:
    """Refresh users when the transaction is committed, or immediately without one.

    An unreachable Redis is logged: the change is committed and must not fail because of it.

    Args:
        pks: Primary keys.
        reason: Reason in the invalidation message.
        using: Alias of the database whose transaction counts; None: that of the users.

    Raises:
        ImproperlyConfigured: As for `namespace`.
    """
    wanted = list(dict.fromkeys(pks))
    tenant = namespace()

    def write() -> None:
        if namespace() != tenant:
            # The database now returns the rows of another tenant.
            log.error(
                "the tenant changed between a change of users of %r and its commit; the gateway was not informed. "
                "Run manage.py ws4redis_refresh for that tenant",
                tenant,
            )
            return
        try:
            refresh(*wanted, reason=reason)
        except redis.RedisError:
            log.exception(
                "Redis failed; users changed, but the gateway was not informed. "
                "Run manage.py ws4redis_refresh when Redis is back"
            )

    if wanted:
        transaction.on_commit(write, using=using or database())


def invalidate_user(user_id: str, reason: str) -> None:
    """Make the gateway re-read the sessions and the key of a user. An unreachable Redis is logged.

    Args:
        user_id: Identifier of the user, from `id_of`.
        reason: Reason in the message; the gateway logs it.
    """
    _publish_control(_user_invalidation(user_id, reason), reason)


def invalidate_session(session_key: str) -> None:
    """Make the gateway re-read a session that was deleted or got another key. An unreachable Redis is logged."""
    if SESSION_KEY_FORM.fullmatch(session_key):
        # Subscribers of the channel must not learn session keys.
        digest = hashlib.sha256(f"ws4redis:session:{session_key}".encode()).hexdigest()
        _publish_control(
            json.dumps({"v": FORMAT, "ended": digest}, separators=(",", ":")), "session that ended"
        )


def session_key_of_cookie(request: HttpRequest) -> str | None:
    """Return the session key in the request's cookie if the request passed the middleware, else None."""
    return getattr(request, "_ws4redis_cookie_session_key", None)


def after_commit(send: Callable[[], None]) -> None:
    """Call a function when the transaction is committed, or immediately without one. Opens no database connection."""
    using = database()
    if transaction.get_connection(using).in_atomic_block:
        transaction.on_commit(send, using=using)
    else:
        send()


def record(user: AbstractBaseUser) -> dict[str, Any]:
    """Return the content of the user's key.

    Returns:
        `v`: version of the format. `active`: whether the user may log in. `username`: string or None. `groups`: list
        of names. `auth_hashes`: as `auth_hashes` returns them.
    """
    return {
        "v": FORMAT,
        "active": _may_log_in(user),
        "username": user_name(user),
        "groups": group_names(user),
        "auth_hashes": auth_hashes(user),
    }


def tombstone() -> dict[str, Any]:
    """Return the content of the key of a deleted user."""
    return {"v": FORMAT, "active": False}


def auth_hashes(user: AbstractBaseUser) -> list[str] | None:
    """Return the valid values of a session's `_auth_user_hash`.

    Returns:
        The hash made with SECRET_KEY, then those made with SECRET_KEY_FALLBACKS. None for a user model without
        hashes, whose sessions Django does not verify.
    """
    if not hasattr(user, "get_session_auth_hash"):
        return None
    fallbacks: Callable[[], Iterable[str]] = getattr(user, "get_session_auth_fallback_hash", lambda: ())
    return [user.get_session_auth_hash(), *fallbacks()]


def _write(pk: str, reason: str, force: bool) -> bool:
    name = key(pk)
    return connection.with_client_of(name, lambda client: _write_at(client, name, pk, reason, force))


def _write_at(client: redis.Redis, name: str, pk: str, reason: str, force: bool) -> bool:
    with client.pipeline() as pipeline:
        for _ in range(MAX_ATTEMPTS):
            try:
                # The row is read between WATCH and EXEC: the last writer has read last, and an older state never
                # overwrites a newer one.
                pipeline.watch(name)
                old: Any = pipeline.get(name)
                seconds: Any = pipeline.ttl(name)
                new = json.dumps(_current(pk), ensure_ascii=False, separators=(",", ":"))
                changed = old not in (new, new.encode())
                pipeline.multi()
                pipeline.set(name, new, ex=max(ttl_seconds(), seconds))
                if changed or force:
                    pipeline.publish(control_channel(), _user_invalidation(qualified(pk), reason))
                pipeline.execute()
                return changed
            except redis.WatchError:
                continue
    raise redis.WatchError(f"{name} changed {MAX_ATTEMPTS} times during its update")


def _current(pk: str) -> dict[str, Any]:
    model = get_user_model()
    # Read the primary, since a replica may lag, and through the base manager, since the site's may hide rows.
    user = model._base_manager.using(database()).filter(pk=pk).first()
    return record(user) if user is not None else tombstone()


def _may_log_in(user: AbstractBaseUser) -> bool:
    # Backends decide, as in Django: AllowAllUsersModelBackend admits inactive users.
    backends = [backend for backend in get_backends() if hasattr(backend, "user_can_authenticate")]
    if backends:
        return any(backend.user_can_authenticate(user) for backend in backends)
    return bool(getattr(user, "is_active", True))


def _publish_control(message: str, subject: str) -> None:
    if testing.is_muted():
        testing.warn_once()
        return
    try:
        connection.client().publish(control_channel(), message)
    except redis.RedisError:
        log.exception("Redis failed; the gateway was not informed of a %s", subject)


def _user_invalidation(user_id: str, reason: str) -> str:
    return json.dumps({"v": FORMAT, "user": user_id, "reason": reason}, separators=(",", ":"))
