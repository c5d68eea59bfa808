"""The callback view: identifies visitors for the gateway where it cannot read the session itself."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

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

from ws4redis import identity, session_engine, settings
from ws4redis.redis_store import user_name

if TYPE_CHECKING:
    from django.contrib.auth.base_user import AbstractBaseUser
    from django.contrib.sessions.backends.base import SessionBase

SECRET_HEADER = "X-WS4Redis-Secret"
# Further secrets of this process: `runserver` adds that of its gateway.
run_secrets: list[str] = []


@method_decorator(never_cache, name="dispatch")
class IdentityView(View):
    """Answer `{user, id, groups, session, allow, expires_in}`, or `null` for an unknown visitor.

    Requests without the right secret get 403. Unlike other views, this one neither changes nor prolongs the visitor's
    session, because the gateway asks repeatedly and forwards no cookie to the browser. Override `identify` for tokens
    and `allow` for rules of the site.
    """

    http_method_names = ["get", "head"]

    # The site's urls.py may capture arguments, hence *args and **kwargs here and in get().
    def dispatch(self, request: HttpRequest, *args: object, **kwargs: object) -> HttpResponseBase:
        """Verify the secret before the method."""
        if not has_secret(request):
            return HttpResponseForbidden("wrong or missing secret", content_type="text/plain")
        detach_session(request)
        return super().dispatch(request, *args, **kwargs)

    # Exempts the view from Django's LoginRequiredMiddleware; the secret protects it.
    dispatch.login_required = False  # type: ignore[attr-defined]

    def get(self, request: HttpRequest, *args: object, **kwargs: object) -> HttpResponse:
        """Identify the visitor.

        Returns:
            A JSON response; docs/django-keys.md specifies its members.

        Raises:
            PermissionDenied: `allow` refuses the visitor.
            ImproperlyConfigured: As for `ws4redis.identity.namespace`.
        """
        session = self.load_session(request)
        user = self.identify(request, session)
        key = _public_key(session)
        flags = request.GET.getlist("flag")
        allowed = self.allow(request, user, request.GET.get("facility", ""), flags)
        if user is None and key is None and allowed is None:
            return JsonResponse(None, safe=False)
        answer: dict[str, Any] = {
            # Empty: logged in without a username, and therefore without a user channel.
            "user": user_name(user) or "" if user is not None else None,
            "id": identity.id_of(user) if user is not None else None,
            "groups": identity.group_names(user) if user is not None else [],
            "session": key,
            "expires_in": self.expires_in(request, user, session),
        }
        if allowed is not None:
            answer["allow"] = sorted(set(allowed) & set(flags))
        return JsonResponse(answer)

    def load_session(self, request: HttpRequest) -> SessionBase | None:
        """Return the session of the request's cookie, or None without a cookie."""
        cookie = request.COOKIES.get(django_settings.SESSION_COOKIE_NAME)
        return session_engine.store_class()(cookie) if cookie else None

    def identify(self, request: HttpRequest, session: SessionBase | None) -> AbstractBaseUser | None:
        """Return the logged-in user of the session according to Django's rules, or None."""
        return session_user(session) if session is not None else None

    def allow(
        self, request: HttpRequest, user: AbstractBaseUser | None, facility: str, flags: list[str]
    ) -> Iterable[str] | None:
        """Return the flags to grant, or None to apply the gateway's rules. The default is None.

        Args:
            request: The gateway's request, with the visitor's cookie and headers.
            user: The logged-in user, or None.
            facility: Name of the facility.
            flags: The requested flags, such as `subscribe-user`.

        Raises:
            PermissionDenied: An override may raise `django.core.exceptions.PermissionDenied` to refuse the visitor.
        """
        return None

    def expires_in(
        self, request: HttpRequest, user: AbstractBaseUser | None, session: SessionBase | None
    ) -> int:
        """Return the seconds for which the answer is valid: at most the remaining lifetime of the session."""
        seconds = int(settings.WS4REDIS_CALLBACK_SECONDS)
        return min(seconds, max(1, session.get_expiry_age())) if session is not None else seconds


def session_user(session: SessionBase) -> AbstractBaseUser | None:
    """Return the user of a session as `django.contrib.auth.get_user` does, or None; leave the session unchanged.

    Django's function deletes a session whose hash is invalid, and moves a session from an old SECRET_KEY to a new
    key, which the browser would not receive.
    """
    try:
        user_id = get_user_model()._meta.pk.to_python(session[SESSION_KEY])
        path = session[BACKEND_SESSION_KEY]
    except (KeyError, ValidationError):
        return None
    if path not in django_settings.AUTHENTICATION_BACKENDS:
        return None
    user: AbstractBaseUser | None = load_backend(path).get_user(user_id)
    if user is None:
        return None
    hashes = identity.auth_hashes(user)
    if hashes is None:
        return user
    given = session.get(HASH_SESSION_KEY) or ""
    # A list: all are compared, so that the time does not depend on which one matches.
    matches = [constant_time_compare(given, valid) for valid in hashes]
    return user if given and any(matches) else None


def _public_key(session: SessionBase | None) -> str | None:
    if session is None:
        return None
    # Reading loads the session. For an unknown key, most engines reset the key; redis_sessions keeps it.
    loaded = any(True for _ in session.keys())  # noqa: SIM118 - a session cannot be iterated
    key = session.session_key
    if key is None or not identity.SESSION_KEY_FORM.fullmatch(key) or not (loaded or session.exists(key)):
        return None
    return str(key)


def detach_session(request: HttpRequest) -> None:
    """Replace the session by an empty one, and the user by AnonymousUser, for the rest of the request.

    With SESSION_SAVE_EVERY_REQUEST, Django's middleware would save the visitor's session, and the session of an open
    page would never expire. Access to `request.user` may delete a session or move it to another key.
    """
    if hasattr(request, "session"):
        request.session = session_engine.store_class()()
    if hasattr(request, "user"):
        request.user = AnonymousUser()


def has_secret(request: HttpRequest) -> bool:
    """Return True if the request has one of the secrets of `WS4REDIS_CALLBACK_SECRET`, or that of `runserver`."""
    setting: str | Iterable[str] | None = settings.WS4REDIS_CALLBACK_SECRET
    given = request.headers.get(SECRET_HEADER, "")
    secrets = [setting] if isinstance(setting, str) else list(setting or ())
    secrets += run_secrets
    # A list: all are compared, so that the time does not depend on which one matches.
    matches = [constant_time_compare(given, secret) for secret in secrets if secret]
    return any(matches)
