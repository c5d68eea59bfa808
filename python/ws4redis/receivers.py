"""Signal receivers: logins, logouts, and changes of users and groups."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, cast

from asgiref.sync import sync_to_async
from django.apps import apps
from django.contrib.auth import get_user_model
from django.contrib.auth.signals import user_logged_in, user_logged_out
from django.core.exceptions import FieldDoesNotExist
from django.db import models
from django.db.models import signals

from ws4redis import groups as channels_groups
from ws4redis import identity

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from django.contrib.auth.base_user import AbstractBaseUser
    from django.contrib.sessions.backends.base import SessionBase
    from django.dispatch import Signal
    from django.http import HttpRequest

# Written at every login, and irrelevant to the gateway.
UNIMPORTANT_FIELDS = frozenset({"last_login"})


def connect() -> None:
    """Connect all receivers, those for users and groups to the site's models and their subclasses."""
    _connect(user_logged_in, store_groups_in_session)
    _connect(user_logged_out, logged_out)
    for user in _with_subclasses(get_user_model()):
        _connect(signals.post_save, user_saved, user)
        _connect(signals.post_delete, user_deleted, user)
    groups = _groups_field(get_user_model())
    if groups is None:
        return
    _connect(signals.m2m_changed, membership_changed, groups.remote_field.through)
    for group in _with_subclasses(groups.related_model):
        _connect(signals.pre_save, group_before_save, group)
        _connect(signals.post_save, group_saved, group)
        _connect(signals.pre_delete, group_before_delete, group)
        _connect(signals.post_delete, group_deleted, group)


def _with_subclasses(model: type[models.Model]) -> list[type[models.Model]]:
    # The sender of a signal is the class that was saved, which may be a proxy.
    return [found for found in apps.get_models() if issubclass(found, model)]


def _connect(signal: Signal, receiver: Callable[..., None], sender: type[models.Model] | None = None) -> None:
    signal.connect(receiver, sender=sender, dispatch_uid=f"ws4redis.{receiver.__name__}")


def _groups_field(user: type[models.Model]) -> models.ManyToManyField[models.Model, models.Model] | None:
    try:
        field = user._meta.get_field("groups")
    except FieldDoesNotExist:
        return None
    return field if isinstance(field, models.ManyToManyField) else None


# Django passes further keyword arguments to receivers, and refuses receivers without **kwargs.


def store_groups_in_session(
    sender: type, user: AbstractBaseUser, request: HttpRequest, **kwargs: object
) -> None:
    """Write name and groups into the session and the user's key, at a login.

    Raises:
        ImproperlyConfigured: As for `ws4redis.identity.namespace`.
    """
    if not hasattr(request, "session"):
        return
    identity.write_session_fields(request.session, user)
    # Keys belong to one model; a backend may log in users of another, with the same primary keys.
    if isinstance(user, get_user_model()):
        identity.refresh_on_commit([identity.pk_of(user)], "login")


def logged_out(
    sender: type, user: AbstractBaseUser | None, request: HttpRequest | None, **kwargs: object
) -> None:
    """Publish invalidation messages at a logout, after the session is deleted.

    Raises:
        ImproperlyConfigured: As for `ws4redis.identity.namespace`.
    """
    session: SessionBase | None = getattr(request, "session", None)
    if user is None or request is None or session is None or not hasattr(user, "_meta"):
        return
    key = session.session_key
    if key == identity.session_key_of_cookie(request):
        # The middleware reports this session.
        key = None
    # Django sends the signal before it deletes the session; a gateway that reads in between finds it alive.
    _after_flush(session, partial(_invalidate_logout, identity.id_of(user), key))


def _invalidate_logout(user_id: str, session_key: str | None) -> None:
    if session_key is not None:
        identity.invalidate_session(session_key)
    identity.invalidate_user(user_id, "logout")


def _after_flush(session: SessionBase, send: Callable[[], None]) -> None:
    flush = session.flush
    # Before Django 5.1, sessions have no asynchronous methods.
    aflush: Callable[[], Awaitable[None]] | None = getattr(session, "aflush", None)

    def done() -> None:
        for name in ("flush", "aflush"):
            session.__dict__.pop(name, None)
        # Other processes see the deletion of a session in the database after the commit.
        identity.after_commit(send)

    def flush_and_send() -> None:
        flush()
        done()

    # Replaced on this object only, and only for the next call.
    session.__dict__["flush"] = flush_and_send
    if aflush is not None:

        async def aflush_and_send() -> None:
            await aflush()
            await sync_to_async(done)()

        session.__dict__["aflush"] = aflush_and_send


def user_saved(
    sender: type[models.Model],
    instance: AbstractBaseUser,
    created: bool,
    using: str,
    update_fields: frozenset[str] | None,
    **kwargs: object,
) -> None:
    """Refresh a user whose password, name, `is_active` or other fields may have changed.

    Raises:
        ImproperlyConfigured: As for `ws4redis.identity.namespace`.
    """
    if created or (update_fields is not None and update_fields <= UNIMPORTANT_FIELDS):
        return
    identity.refresh_on_commit([identity.pk_of(instance)], "user", using)


def user_deleted(
    sender: type[models.Model], instance: AbstractBaseUser, using: str, **kwargs: object
) -> None:
    """Write the tombstone of a deleted user, and delete the user's Channels groups.

    Raises:
        ImproperlyConfigured: As for `ws4redis.identity.namespace`.
    """
    pk = identity.pk_of(instance)
    identity.refresh_on_commit([pk], "deleted", using)
    channels_groups.delete_on_commit(pk, using)


def membership_changed(
    sender: type[models.Model],
    instance: models.Model,
    action: str,
    reverse: bool,
    pk_set: set[object] | None,
    using: str,
    **kwargs: object,
) -> None:
    """Refresh users that were added to groups or removed from them, from either side of the relation.

    Raises:
        ImproperlyConfigured: As for `ws4redis.identity.namespace`.
    """
    if not reverse:
        if action in ("post_add", "post_remove", "post_clear"):
            user = cast("AbstractBaseUser", instance)
            identity.refresh_on_commit([identity.pk_of(user)], "groups", using)
    elif action == "pre_clear":
        # After the clear, the former members are unknown.
        instance.__dict__["_ws4redis_members"] = _members(instance, using)
    elif action == "post_clear":
        identity.refresh_on_commit(instance.__dict__.pop("_ws4redis_members", ()), "groups", using)
    elif action in ("post_add", "post_remove") and pk_set:
        identity.refresh_on_commit([_pk_text(pk) for pk in pk_set], "groups", using)


def group_before_save(
    sender: type[models.Model], instance: models.Model, using: str, **kwargs: object
) -> None:
    """Note whether the save renames the group."""
    instance.__dict__["_ws4redis_renamed"] = (
        not instance._state.adding
        and hasattr(instance, "name")
        and not sender._base_manager.using(using).filter(pk=instance.pk, name=instance.name).exists()
    )


def group_saved(
    sender: type[models.Model], instance: models.Model, created: bool, using: str, **kwargs: object
) -> None:
    """Refresh the members of a renamed group.

    Raises:
        ImproperlyConfigured: As for `ws4redis.identity.namespace`.
    """
    if instance.__dict__.pop("_ws4redis_renamed", False) and not created:
        identity.refresh_on_commit(_members(instance, using), "groups", using)


def group_before_delete(
    sender: type[models.Model], instance: models.Model, using: str, **kwargs: object
) -> None:
    """Note the members of the group, which are unknown after the deletion."""
    instance.__dict__["_ws4redis_members"] = _members(instance, using)


def group_deleted(sender: type[models.Model], instance: models.Model, using: str, **kwargs: object) -> None:
    """Refresh the former members of a deleted group.

    Raises:
        ImproperlyConfigured: As for `ws4redis.identity.namespace`.
    """
    identity.refresh_on_commit(instance.__dict__.pop("_ws4redis_members", ()), "groups", using)


def _members(group: models.Model, using: str) -> list[str]:
    members = get_user_model()._base_manager.using(using).filter(groups=group)
    return [_pk_text(pk) for pk in members.values_list("pk", flat=True)]


def _pk_text(pk: object) -> str:
    # Through an instance, as in sessions: some fields have a text form of their own.
    model = get_user_model()
    user = model()
    setattr(user, model._meta.pk.attname, pk)
    return identity.pk_of(user)
