"""What the gateway is told of users: fields of their sessions, a key for each user, and hints on a control channel.

The formats are in docs/django-keys.md; the gateway reads them.
"""

from __future__ import annotations

import hashlib
import json
import logging
import re
import time
from collections.abc import Callable, Iterable
from typing import Any, Final

import redis
from django.conf import settings as django_settings
from django.contrib.auth import HASH_SESSION_KEY, get_backends, get_user_model
from django.core.exceptions import ImproperlyConfigured, ValidationError
from django.db import router, transaction
from django.utils.module_loading import import_string

from ws4redis import connection, settings, testing
from ws4redis.redis_store import MEMBEROF, RedisStore, user_name

log = logging.getLogger("ws4redis")

FORMAT: Final = 1
USERNAME: Final = "ws4redis:username"
# The tenant whose user it is: the gateway finds the user's key by it.
NAMESPACE: Final = "ws4redis:namespace"
# When the two fields above were written, in seconds since 1970: the middleware renews them after a while.
WRITTEN: Final = "ws4redis:written"
# The digest of the password that the session had then: Django makes a new one when SECRET_KEY changes.
HASH: Final = "ws4redis:hash"
# What a gateway takes for a session key at all; the "key" of a signed cookie is the whole session.
SESSION_KEY_FORM: Final = re.compile(r"[0-9A-Za-z]{8,64}")
# Somebody else writes the same user's key at the same moment: read and write again, but not for ever.
MAX_ATTEMPTS: Final = 20
MAX_NAMESPACE: Final = 256


def key(pk: str) -> str:
    """Returns the name of the user's key in Redis."""
    return f"{RedisStore.get_prefix()}ws4redis:identity:{qualified(pk)}"


def namespace() -> str | None:
    """Returns the tenant of now, by WS4REDIS_IDENTITY_NAMESPACE, or None.

    Raises ImproperlyConfigured for one that cannot be part of a key.
    """
    by_setting: Any = settings.WS4REDIS_IDENTITY_NAMESPACE
    if by_setting is None:
        return None
    function = import_string(by_setting) if isinstance(by_setting, str) else by_setting
    name: Any = function()
    if name is None or name == "":
        return None
    if not isinstance(name, str) or ":" in name or len(name) > MAX_NAMESPACE:
        raise ImproperlyConfigured(
            f"WS4REDIS_IDENTITY_NAMESPACE has to return a text without colons, of {MAX_NAMESPACE} characters at most"
        )
    return name


def qualified(pk: str) -> str:
    """Returns the primary key with the tenant before it: by this the gateway knows a user."""
    tenant = namespace()
    return pk if tenant is None else f"{tenant}:{pk}"


def id_of(user: Any) -> str:
    """Returns by what the gateway knows a user: the primary key, with the tenant before it if there are several."""
    return qualified(pk_of(user))


def control_channel() -> str:
    """Returns the name of the channel for hints."""
    return f"{RedisStore.get_prefix()}ws4redis:control"


def ttl_seconds() -> int:
    """Returns how long a user's key outlives its last change.

    Longer than the session that it overrules: the middleware renews a session's fields after half of
    SESSION_COOKIE_AGE, and the session lives for one more from its last change.
    """
    wanted = settings.WS4REDIS_IDENTITY_SECONDS
    return max(int(django_settings.SESSION_COOKIE_AGE), int(wanted or 2 * django_settings.SESSION_COOKIE_AGE))


def pk_of(user: Any) -> str:
    """Returns the primary key as `_auth_user_id` of sessions has it."""
    model = get_user_model()
    # A subclass of the model has a key field of its own, the link to its parent.
    field = (model if isinstance(user, model) else user)._meta.pk
    return str(field.value_to_string(user))


def database() -> str:
    """Returns the alias of the database that users are written to."""
    return router.db_for_write(get_user_model())


def group_names(user: Any) -> list[str]:
    """Returns the names of the user's groups, sorted: by WS4REDIS_GROUPS, or those of `user.groups`."""
    by_setting: Any = settings.WS4REDIS_GROUPS
    if by_setting is not None:
        function = import_string(by_setting) if isinstance(by_setting, str) else by_setting
        return _names(function(user))
    groups = getattr(user, "groups", None)
    return _names(group.name for group in groups.all()) if groups is not None else []


def _names(names: Iterable[Any]) -> list[str]:
    # All groups without a name would be one.
    return sorted({str(name) for name in names if name is not None and str(name)})


def remember(session: Any, user: Any) -> None:
    """Writes the user's name and groups into the session, for the gateway."""
    # None for a user without a name, who gets no channel of their own.
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


def is_fresh(session: Any) -> bool:
    """Returns whether the session has the fields, not too old ones."""
    written = session.get(WRITTEN)
    return (
        USERNAME in session
        and isinstance(written, int)
        and time.time() - written < django_settings.SESSION_COOKIE_AGE / 2
        and session.get(HASH) == session.get(HASH_SESSION_KEY)
        and session.get(NAMESPACE) == namespace()
    )


def refresh(*users: Any, reason: str = "refresh", force: bool = False) -> int:
    """Writes the keys of these users (instances or primary keys) as the database has them now, and sends hints.

    For changes of which Django sends no signal: `QuerySet.update()`, bulk methods, SQL. `force` sends hints even for
    users whose key says nothing new. Returns the number of keys that have changed. Raises redis.RedisError.
    """
    if testing.is_muted():
        testing.warn_once()
        return 0
    pks = [pk_of(user) if hasattr(user, "_meta") else str(user) for user in users]
    return sum(_write(pk, reason, force) for pk in dict.fromkeys(pks))


def pks_with_key() -> list[str]:
    """Returns the primary keys of all users who have a key, by a SCAN of Redis."""
    if testing.is_muted():
        return []
    start = key("")
    pattern = re.sub(r"([\\*?\[\]])", r"\\\1", start) + "*"
    names: Any = connection.client().scan_iter(match=pattern, count=1000)
    pks = [(name.decode() if isinstance(name, bytes) else name)[len(start) :] for name in names]
    return [pk for pk in pks if _is_pk(pk)]


def _is_pk(text: str) -> bool:
    if settings.WS4REDIS_IDENTITY_NAMESPACE is not None and ":" in text and namespace() is None:
        # The key of a tenant's user.
        return False
    try:
        get_user_model()._meta.pk.to_python(text)
    except ValidationError:
        return False
    return True


def refresh_on_commit(pks: Iterable[str], reason: str, using: str | None = None) -> None:
    """Writes the keys of these users once the transaction is committed, at once if there is none.

    A Redis that cannot be reached is logged: the change itself is made, and must not fail for that.
    """
    wanted = list(dict.fromkeys(pks))
    tenant = namespace()

    def write() -> None:
        if namespace() != tenant:
            # The row that would be read now is another tenant's.
            log.error(
                "users of %r changed, but the tenant was another at the commit: run manage.py ws4redis_refresh for it",
                tenant,
            )
            return
        try:
            refresh(*wanted, reason=reason)
        except redis.RedisError:
            log.exception(
                "users changed, but the gateway could not be told: run manage.py ws4redis_refresh when Redis is back"
            )

    if wanted:
        transaction.on_commit(write, using=using or database())


def hint(user_id: str, reason: str) -> None:
    """Tells the gateway to look again at the sessions and the key of this user (by `id_of`).

    A Redis that is gone is logged.
    """
    _tell(_hint(user_id, reason), reason)


def hint_ended(session_key: str) -> None:
    """Tells the gateway that this session was deleted or has another key now; a Redis that is gone is logged."""
    if SESSION_KEY_FORM.fullmatch(session_key):
        # Others may hear the channel: they learn of no key.
        digest = hashlib.sha256(f"ws4redis:session:{session_key}".encode()).hexdigest()
        _tell(json.dumps({"v": FORMAT, "ended": digest}, separators=(",", ":")), "session that has ended")


def came_with(request: Any) -> str | None:
    """Returns the session key that the request came with, if it went through the middleware."""
    return getattr(request, "_ws4redis_came_with", None)


def after_commit(send: Callable[[], None]) -> None:
    """Calls this once the transaction is committed, at once if there is none; opens no database for that."""
    using = database()
    if transaction.get_connection(using).in_atomic_block:
        transaction.on_commit(send, using=using)
    else:
        send()


def record(user: Any) -> dict[str, Any]:
    """Returns what the user's key holds."""
    return {
        "v": FORMAT,
        "active": _may_log_in(user),
        "username": user_name(user),
        "groups": group_names(user),
        "auth_hashes": auth_hashes(user),
    }


def tombstone() -> dict[str, Any]:
    """Returns what the key of a user holds who is gone."""
    return {"v": FORMAT, "active": False}


def auth_hashes(user: Any) -> list[str] | None:
    """Returns what `_auth_user_hash` may be in sessions: by SECRET_KEY first, then by SECRET_KEY_FALLBACKS.

    None for user models without hashes, whose sessions Django does not verify.
    """
    if not hasattr(user, "get_session_auth_hash"):
        return None
    fallbacks: Callable[[], Iterable[str]] = getattr(user, "get_session_auth_fallback_hash", lambda: ())
    return [user.get_session_auth_hash(), *fallbacks()]


def _write(pk: str, reason: str, force: bool) -> bool:
    name, client = key(pk), connection.client()
    with client.pipeline() as pipeline:
        for _ in range(MAX_ATTEMPTS):
            try:
                # The row is read between WATCH and EXEC. So whoever writes last has read last, and an older state
                # never overwrites a newer one.
                pipeline.watch(name)
                old: Any = pipeline.get(name)
                seconds: Any = pipeline.ttl(name)
                new = json.dumps(_current(pk), ensure_ascii=False, separators=(",", ":"))
                changed = old not in (new, new.encode())
                pipeline.multi()
                pipeline.set(name, new, ex=max(ttl_seconds(), seconds))
                if changed or force:
                    pipeline.publish(control_channel(), _hint(qualified(pk), reason))
                pipeline.execute()
                return changed
            except redis.WatchError:
                continue
    raise redis.WatchError(f"{name} changed {MAX_ATTEMPTS} times while it was being written")


def _current(pk: str) -> dict[str, Any]:
    model = get_user_model()
    # The row that was written, not a replica's, and not what a manager of the site's hides.
    user = model._base_manager.using(database()).filter(pk=pk).first()
    return record(user) if user is not None else tombstone()


def _may_log_in(user: Any) -> bool:
    # As Django's backends see it: AllowAllUsersModelBackend lets inactive users in.
    judges = [backend for backend in get_backends() if hasattr(backend, "user_can_authenticate")]
    if judges:
        return any(backend.user_can_authenticate(user) for backend in judges)
    return bool(getattr(user, "is_active", True))


def _tell(message: str, what: str) -> None:
    if testing.is_muted():
        testing.warn_once()
        return
    try:
        connection.client().publish(control_channel(), message)
    except redis.RedisError:
        log.exception("the gateway could not be told of a %s", what)


def _hint(user_id: str, reason: str) -> str:
    return json.dumps({"v": FORMAT, "user": user_id, "reason": reason}, separators=(",", ":"))
