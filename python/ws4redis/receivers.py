"""Signal receivers: logins, logouts, and changes of users and groups."""

from __future__ import annotations

from functools import partial
from typing import Any

from asgiref.sync import sync_to_async
from django.apps import apps
from django.contrib.auth import get_user_model
from django.contrib.auth.signals import user_logged_in, user_logged_out
from django.core.exceptions import FieldDoesNotExist
from django.db import models
from django.db.models import signals

from ws4redis import identity

# Written at every login, and no concern of the gateway.
UNIMPORTANT_FIELDS = frozenset({"last_login"})


def connect() -> None:
    """Connects all receivers; those for users and groups to the models that the site has."""
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


def _with_subclasses(model: Any) -> list[Any]:
    # Signals name the class that was saved, which may be a proxy.
    return [found for found in apps.get_models() if issubclass(found, model)]


def _connect(signal: Any, receiver: Any, sender: Any = None) -> None:
    signal.connect(receiver, sender=sender, dispatch_uid=f"ws4redis.{receiver.__name__}")


def _groups_field(user: Any) -> Any:
    try:
        field = user._meta.get_field("groups")
    except FieldDoesNotExist:
        return None
    return field if isinstance(field, models.ManyToManyField) else None


def store_groups_in_session(sender: Any, user: Any, request: Any, **kwargs: Any) -> None:
    """At login: writes name and groups into the session, and the user's key."""
    if not hasattr(request, "session"):
        return
    identity.remember(request.session, user)
    # Keys are of one model; with another one for some backend, the same number would be somebody else.
    if isinstance(user, get_user_model()):
        identity.refresh_on_commit([identity.pk_of(user)], "login")


def logged_out(sender: Any, user: Any, request: Any, **kwargs: Any) -> None:
    """At logout: sends hints, as soon as the session is gone."""
    session = getattr(request, "session", None)
    if user is None or session is None or not hasattr(user, "_meta"):
        return
    key = session.session_key
    if key == identity.came_with(request):
        # The middleware tells of it, as of all other ends.
        key = None
    # Django sends the signal first and deletes the session then; a gateway that looks in between finds it alive.
    _after_flush(session, partial(_hint_logout, identity.id_of(user), key))


def _hint_logout(user_id: str, session_key: str | None) -> None:
    if session_key is not None:
        identity.hint_ended(session_key)
    identity.hint(user_id, "logout")


def _after_flush(session: Any, send: Any) -> None:
    flush: Any = session.flush
    aflush: Any = getattr(session, "aflush", None)

    def done() -> None:
        for name in ("flush", "aflush"):
            session.__dict__.pop(name, None)
        # A session in the database is gone for others when the transaction is.
        identity.after_commit(send)

    def flush_and_send() -> None:
        flush()
        done()

    async def aflush_and_send() -> None:
        await aflush()
        await sync_to_async(done)()

    # On this one session object, and only for the next call.
    session.flush = flush_and_send
    if aflush is not None:
        session.aflush = aflush_and_send


def user_saved(
    sender: Any,
    instance: Any,
    created: bool,
    using: str,
    update_fields: frozenset[str] | None,
    **kwargs: Any,
) -> None:
    """Password, name, is_active or anything else of the user may have changed."""
    if created or (update_fields is not None and update_fields <= UNIMPORTANT_FIELDS):
        return
    identity.refresh_on_commit([identity.pk_of(instance)], "user", using)


def user_deleted(sender: Any, instance: Any, using: str, **kwargs: Any) -> None:
    """The user is gone."""
    identity.refresh_on_commit([identity.pk_of(instance)], "deleted", using)


def membership_changed(
    sender: Any,
    instance: Any,
    action: str,
    reverse: bool,
    pk_set: set[Any] | None,
    using: str,
    **kwargs: Any,
) -> None:
    """Users came into groups or left them, changed from either side."""
    if not reverse:
        if action in ("post_add", "post_remove", "post_clear"):
            identity.refresh_on_commit([identity.pk_of(instance)], "groups", using)
    elif action == "pre_clear":
        # Afterwards nobody knows any more who they were.
        instance._ws4redis_members = _members(instance, using)
    elif action == "post_clear":
        identity.refresh_on_commit(instance.__dict__.pop("_ws4redis_members", ()), "groups", using)
    elif action in ("post_add", "post_remove") and pk_set:
        field = get_user_model()._meta.pk
        identity.refresh_on_commit([_pk_text(field, pk) for pk in pk_set], "groups", using)


def group_before_save(sender: Any, instance: Any, using: str, **kwargs: Any) -> None:
    """Looks whether the group gets another name."""
    instance._ws4redis_renamed = (
        not instance._state.adding
        and hasattr(instance, "name")
        and not sender._base_manager.using(using).filter(pk=instance.pk, name=instance.name).exists()
    )


def group_saved(sender: Any, instance: Any, created: bool, using: str, **kwargs: Any) -> None:
    """The group may have another name."""
    if instance.__dict__.pop("_ws4redis_renamed", False) and not created:
        identity.refresh_on_commit(_members(instance, using), "groups", using)


def group_before_delete(sender: Any, instance: Any, using: str, **kwargs: Any) -> None:
    """Remembers who is in the group."""
    instance._ws4redis_members = _members(instance, using)


def group_deleted(sender: Any, instance: Any, using: str, **kwargs: Any) -> None:
    """The group is gone."""
    identity.refresh_on_commit(instance.__dict__.pop("_ws4redis_members", ()), "groups", using)


def _members(group: Any, using: str) -> list[str]:
    user = get_user_model()
    pks = user._base_manager.using(using).filter(groups=group).values_list("pk", flat=True)
    return [_pk_text(user._meta.pk, pk) for pk in pks]


def _pk_text(field: Any, pk: Any) -> str:
    # Through an instance, as sessions have it: some fields write their values in a way of their own.
    user = get_user_model()()
    setattr(user, field.attname, pk)
    return identity.pk_of(user)
