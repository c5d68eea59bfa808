"""Brings sessions up to date that the login receiver has not seen, or not for a long time; tells of those that end."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any, Union

from asgiref.sync import iscoroutinefunction, markcoroutinefunction, sync_to_async
from django.conf import settings as django_settings
from django.contrib.auth import SESSION_KEY
from django.http import HttpRequest
from django.http.response import HttpResponseBase

from ws4redis import identity, views

Handler = Callable[[HttpRequest], Union[HttpResponseBase, Awaitable[HttpResponseBase]]]


class SessionMiddleware:
    """Writes name and groups into sessions of logged-in users that lack them, and renews them now and then.

    And tells the gateway when a request has ended the session that it came with: by a logout, a login, another
    password, or otherwise.

    Stands behind Django's SessionMiddleware and AuthenticationMiddleware. Works once the view is done, and only for
    requests that have used their session: others stay as cacheable as they were. A session that is up to date costs
    no query.
    """

    sync_capable = True
    async_capable = True

    def __init__(self, get_response: Handler) -> None:
        """Takes the next in the chain."""
        self.get_response = get_response
        if iscoroutinefunction(get_response):
            markcoroutinefunction(self)

    def __call__(self, request: HttpRequest) -> Any:
        """Answers the request."""
        if iscoroutinefunction(self):
            return self._acall(request)
        session, key = _note_session(request)
        response: Any = self.get_response(request)
        if _has_ended(session, key):
            _tell_of_end(key)
        if _is_stale(request):
            _bring_up_to_date(request)
        return response

    def process_view(self, request: HttpRequest, view: Any, args: Any, kwargs: Any) -> None:
        """Keeps the middleware behind this one from touching the session about which the gateway asks."""
        if issubclass(getattr(view, "view_class", object), views.IdentityView) and views.has_secret(request):
            views.shield(request)

    async def _acall(self, request: HttpRequest) -> Any:
        session, key = _note_session(request)
        response = await self.get_response(request)  # type: ignore[misc]
        if _has_ended(session, key):
            await sync_to_async(_tell_of_end)(key)
        if _is_stale(request):
            await sync_to_async(_bring_up_to_date)(request)
        return response


def _note_session(request: Any) -> tuple[Any, str]:
    key = request.COOKIES.get(django_settings.SESSION_COOKIE_NAME, "")
    request._ws4redis_came_with = key
    # A view may put another object there, with the first session still alive.
    return getattr(request, "session", None), key


def _has_ended(session: Any, key: str) -> bool:
    # No I/O: a session is modified by whatever deletes it, or gives it another key. One that was found to be gone is
    # not, and may be one that never was.
    return bool(key and getattr(session, "modified", False) and session.session_key != key)


def _tell_of_end(key: str) -> None:
    identity.after_commit(partial(identity.hint_ended, key))


def _is_stale(request: Any) -> bool:
    session = getattr(request, "session", None)
    # A session that was used is in memory: no I/O here.
    return (
        session is not None
        and getattr(session, "accessed", False)
        and SESSION_KEY in session
        and not identity.is_fresh(session)
    )


def _bring_up_to_date(request: Any) -> None:
    user = getattr(request, "user", None)
    # The session may be somebody's whom Django no longer lets in, or another's than at the start of the request.
    if user is None or not user.is_authenticated or identity.pk_of(user) != request.session.get(SESSION_KEY):
        return
    identity.remember(request.session, user)
    identity.refresh_on_commit([identity.pk_of(user)], "login")
