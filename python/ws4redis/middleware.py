"""Middleware that keeps the session fields for the gateway current, and reports sessions that a request ends."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from functools import partial
from typing import TYPE_CHECKING, Union, cast

from asgiref.sync import iscoroutinefunction, markcoroutinefunction, sync_to_async
from django.conf import settings as django_settings
from django.contrib.auth import SESSION_KEY
from django.http import HttpRequest
from django.http.response import HttpResponseBase

from ws4redis import identity, views

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from django.contrib.sessions.backends.base import SessionBase

Response = Union[HttpResponseBase, Awaitable[HttpResponseBase]]
Handler = Callable[[HttpRequest], Response]


class SessionMiddleware:
    """Write name and groups into sessions of logged-in users that lack them, and rewrite them when they are old.

    Also send an invalidation message when a request ends the session of its cookie: by a logout, a login, a change of
    the password, or in a view.

    Place it after Django's SessionMiddleware and AuthenticationMiddleware. It runs after the view, and only for
    requests that used their session, so that other responses stay cacheable. A current session costs no query.
    """

    sync_capable = True
    async_capable = True

    def __init__(self, get_response: Handler) -> None:
        """Wrap the next handler, synchronous or asynchronous."""
        self.get_response = get_response
        self._is_async = iscoroutinefunction(get_response)
        if self._is_async:
            markcoroutinefunction(self)

    def __call__(self, request: HttpRequest) -> Response:
        """Handle a request."""
        if self._is_async:
            return self._acall(request)
        session, key = _note_session(request)
        response = self.get_response(request)
        if _has_ended(session, key):
            _invalidate_after_commit(key)
        if _is_stale(request):
            _update(request)
        return response

    def process_view(
        self,
        request: HttpRequest,
        view_func: Callable[..., HttpResponseBase],
        view_args: Sequence[object],
        view_kwargs: Mapping[str, object],
    ) -> None:
        """Detach the visitor's session from the gateway's requests before later middleware can change it."""
        if issubclass(getattr(view_func, "view_class", object), views.IdentityView) and views.has_secret(
            request
        ):
            views.detach_session(request)

    async def _acall(self, request: HttpRequest) -> HttpResponseBase:
        session, key = _note_session(request)
        response = await cast("Awaitable[HttpResponseBase]", self.get_response(request))
        if _has_ended(session, key):
            await sync_to_async(_invalidate_after_commit)(key)
        if _is_stale(request):
            await sync_to_async(_update)(request)
        return response


def _note_session(request: HttpRequest) -> tuple[SessionBase | None, str]:
    key = request.COOKIES.get(django_settings.SESSION_COOKIE_NAME, "")
    request._ws4redis_cookie_session_key = key  # type: ignore[attr-defined]
    # A view may assign another session object while the first session continues.
    return getattr(request, "session", None), key


def _has_ended(session: SessionBase | None, key: str) -> bool:
    # No I/O: deleting a session or changing its key marks it as modified. A session that Django did not find is not
    # marked, and need not have existed.
    return bool(
        key and session is not None and getattr(session, "modified", False) and session.session_key != key
    )


def _invalidate_after_commit(key: str) -> None:
    identity.after_commit(partial(identity.invalidate_session, key))


def _is_stale(request: HttpRequest) -> bool:
    session: SessionBase | None = getattr(request, "session", None)
    # No I/O: an accessed session is in memory.
    return (
        session is not None
        and getattr(session, "accessed", False)
        and SESSION_KEY in session
        and not identity.is_fresh(session)
    )


def _update(request: HttpRequest) -> None:
    user = getattr(request, "user", None)
    # Django may no longer accept the session, and the view may have logged in another user.
    if user is None or not user.is_authenticated or identity.pk_of(user) != request.session.get(SESSION_KEY):
        return
    identity.write_session_fields(request.session, user)
    identity.refresh_on_commit([identity.pk_of(user)], "login")
