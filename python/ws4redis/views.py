"""The callback view: the gateway asks it who a visitor is where it cannot read the session itself."""

from __future__ import annotations

from collections.abc import Iterable
from importlib import import_module
from typing import Any

from django.conf import settings as django_settings
from django.contrib.auth import (
    BACKEND_SESSION_KEY,
    HASH_SESSION_KEY,
    SESSION_KEY,
    get_user_model,
    load_backend,
)
from django.contrib.auth.models import AnonymousUser
from django.core.exceptions import ValidationError
from django.http import HttpRequest, HttpResponse, HttpResponseForbidden, JsonResponse
from django.http.response import HttpResponseBase
from django.utils.crypto import constant_time_compare
from django.utils.decorators import method_decorator
from django.views.decorators.cache import never_cache
from django.views.generic import View

from ws4redis import identity, settings
from ws4redis.redis_store import user_name

SECRET_HEADER = "X-WS4Redis-Secret"


@method_decorator(never_cache, name="dispatch")
class IdentityView(View):
    """Answers `{user, id, groups, session, allow, expires_in}`, or null for visitors of whom nothing is known.

    Without the right secret: 403. Neither changes nor prolongs the visitor's session, unlike other views: the gateway
    asks again and again, and passes no cookie on. Override `identify` for tokens and `allow` for rules of your own.
    """

    http_method_names = ["get", "head"]

    def dispatch(self, request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponseBase:
        """Asks for the secret first, whatever the method is."""
        if not has_secret(request):
            return HttpResponseForbidden("wrong or missing secret", content_type="text/plain")
        shield(request)
        return super().dispatch(request, *args, **kwargs)

    # For Django's LoginRequiredMiddleware: the view has its secret instead.
    dispatch.login_required = False  # type: ignore[attr-defined]

    def get(self, request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponse:
        """Answers who the visitor is."""
        session = self.load_session(request)
        user = self.identify(request, session)
        key = _public_key(session)
        flags = request.GET.getlist("flag")
        allowed = self.allow(request, user, request.GET.get("facility", ""), flags)
        if user is None and key is None and allowed is None:
            return JsonResponse(None, safe=False)
        answer: dict[str, Any] = {
            # Empty: logged in, without a name, and so without a channel of their own.
            "user": user_name(user) or "" if user is not None else None,
            "id": identity.id_of(user) if user is not None else None,
            "groups": identity.group_names(user) if user is not None else [],
            "session": key,
            "expires_in": self.expires_in(request, user, session),
        }
        if allowed is not None:
            answer["allow"] = sorted(set(allowed) & set(flags))
        return JsonResponse(answer)

    def load_session(self, request: HttpRequest) -> Any:
        """Returns the session of the request's cookie, or None without a cookie."""
        cookie = request.COOKIES.get(django_settings.SESSION_COOKIE_NAME)
        return _store(cookie) if cookie else None

    def identify(self, request: HttpRequest, session: Any) -> Any:
        """Returns the user of the session, by Django's own rules, or None."""
        return session_user(session) if session is not None else None

    def allow(self, request: HttpRequest, user: Any, facility: str, flags: list[str]) -> Iterable[str] | None:
        """Returns which of the requested flags (`subscribe-user` …) are granted; None leaves it to the gateway.

        Raise `django.core.exceptions.PermissionDenied` to refuse the visitor.
        """
        return None

    def expires_in(self, request: HttpRequest, user: Any, session: Any) -> int:
        """Returns after how many seconds the gateway asks again."""
        seconds = int(settings.WS4REDIS_CALLBACK_SECONDS)
        return min(seconds, max(1, session.get_expiry_age())) if session is not None else seconds


def session_user(session: Any) -> Any:
    """Returns the user of a session as `django.contrib.auth.get_user`, or None; leaves the session as it is.

    Django's own would delete a session whose hash does not fit, and move one made with an old SECRET_KEY to a new
    key, of which the browser would not hear.
    """
    try:
        user_id = get_user_model()._meta.pk.to_python(session[SESSION_KEY])
        path = session[BACKEND_SESSION_KEY]
    except (KeyError, ValidationError):
        return None
    if path not in django_settings.AUTHENTICATION_BACKENDS:
        return None
    user = load_backend(path).get_user(user_id)
    if user is None:
        return None
    hashes = identity.auth_hashes(user)
    if hashes is None:
        return user
    given = session.get(HASH_SESSION_KEY) or ""
    fits = [constant_time_compare(given, right) for right in hashes]
    return user if given and any(fits) else None


def _store(key: str | None = None) -> Any:
    return import_module(django_settings.SESSION_ENGINE).SessionStore(key)


def _public_key(session: Any) -> str | None:
    if session is None:
        return None
    # Loads it; engines that find nothing forget the key, or (redis_sessions) adopt it, with nothing in it.
    known = any(True for _ in session.keys())  # noqa: SIM118 - a session is no mapping
    key = session.session_key
    if key is None or not identity.SESSION_KEY_FORM.fullmatch(key) or not (known or session.exists(key)):
        return None
    return str(key)


def shield(request: HttpRequest) -> None:
    """Puts an empty session, and nobody, in the place of the visitor's for the rest of the request.

    Django's middleware would save the visitor's with SESSION_SAVE_EVERY_REQUEST, and an open page would never expire;
    and whatever looks at `request.user` may delete it, or move it to another key.
    """
    if hasattr(request, "session"):
        request.session = _store()
    if hasattr(request, "user"):
        request.user = AnonymousUser()


def has_secret(request: HttpRequest) -> bool:
    """Returns whether the request comes from the gateway."""
    secrets: Any = settings.WS4REDIS_CALLBACK_SECRET
    given = request.headers.get(SECRET_HEADER, "")
    rights = [secrets] if isinstance(secrets, str) else list(secrets or ())
    # All of them, always: the time says nothing about which one came near.
    fits = [constant_time_compare(given, right) for right in rights if right]
    return any(fits)
