"""Three chats at the facility `foobar`: broadcast, with a user, with a group."""

from django.conf import settings
from django.contrib.auth import get_user_model
from django.contrib.auth.models import Group
from django.core.exceptions import PermissionDenied
from django.http import HttpResponse, JsonResponse
from django.views.generic import TemplateView, View

from ws4redis.publisher import RedisPublisher
from ws4redis.views import IdentityView

FACILITY = "foobar"


class WhoView(View):
    """Reports the logged-in user; `?set=value` stores a value in the session."""

    def get(self, request):
        """Returns JSON."""
        if "set" in request.GET:
            request.session["note"] = request.GET["set"]
        return JsonResponse({"user": request.user.get_username(), "session": request.session.session_key})


class RulesView(IdentityView):
    """The callback of a site with tokens and rules of its own."""

    def identify(self, request, session):
        """Accepts `Authorization: Token NAME` as well."""
        kind, _, name = request.headers.get("Authorization", "").partition(" ")
        if kind == "Token":
            return get_user_model().objects.filter(username=name).first()
        return super().identify(request, session)

    def allow(self, request, user, facility, flags):
        """Allows only broadcasts in `quiet/…`, only staff in `staff/…`, and no visitor in `closed`."""
        if facility == "closed":
            raise PermissionDenied
        if facility.startswith("staff/") and not (user and user.is_staff):
            return []
        return ["subscribe-broadcast"] if facility.startswith("quiet/") else None


class ChatView(TemplateView):
    """The page of a chat; posted messages go to the audience `audience`."""

    audience = ""
    old = False
    """Selects templates in the style of django-websocket-redis."""

    def get_template_names(self):
        """Returns the template of this chat."""
        name = f"{self.audience or 'broadcast'}_chat.html"
        return [f"old/{name}" if self.old else name]

    def get_context_data(self, **kwargs):
        """Adds the possible receivers and the WebSocket address."""
        context = super().get_context_data(
            facility=FACILITY,
            audience=self.audience,
            users=get_user_model().objects.all(),
            groups=Group.objects.all(),
            **kwargs,
        )
        if settings.SITE_WEBSOCKET_URI:
            context["WEBSOCKET_URI"] = settings.SITE_WEBSOCKET_URI
        return context

    def post(self, request, *args, **kwargs):
        """Publishes `message` for the posted user or group."""
        audience = {f"{self.audience}s": [request.POST[self.audience]]}
        receivers = RedisPublisher(facility=FACILITY, **audience).publish_message(request.POST["message"])
        return HttpResponse(f"{receivers} receivers", content_type="text/plain")


class BroadcastChatView(ChatView):
    """The broadcast chat; opening the page broadcasts a greeting."""

    http_method_names = ["get", "head", "options"]

    def get(self, request, *args, **kwargs):
        """Broadcasts the greeting, then returns the page."""
        RedisPublisher(facility=FACILITY, broadcast=True).publish_message("Hello everybody")
        return super().get(request, *args, **kwargs)


class UserChatView(ChatView):
    """A chat with one user, in all of the user's browsers."""

    audience = "user"


class GroupChatView(ChatView):
    """A chat with the members of a group."""

    audience = "group"


async def publish_async(request):
    """Broadcasts from an async view."""
    receivers = await RedisPublisher(facility=FACILITY, broadcast=True).apublish_message(
        request.GET["message"]
    )
    return HttpResponse(f"{receivers} receivers", content_type="text/plain")
