"""Three chats at the facility `foobar`: with everybody, with a user, with a group."""

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
    """Says who is logged in; `?set=value` stores something in the session."""

    def get(self, request):
        """Answers with JSON."""
        if "set" in request.GET:
            request.session["note"] = request.GET["set"]
        return JsonResponse({"user": request.user.get_username(), "session": request.session.session_key})


class RulesView(IdentityView):
    """The callback of a site with tokens, and rules of its own."""

    def identify(self, request, session):
        """Knows `Authorization: Token NAME`, too."""
        kind, _, name = request.headers.get("Authorization", "").partition(" ")
        if kind == "Token":
            return get_user_model().objects.filter(username=name).first()
        return super().identify(request, session)

    def allow(self, request, user, facility, flags):
        """Only broadcasts for `quiet/…`, nothing for strangers in `staff/…`, nobody at all in `closed`."""
        if facility == "closed":
            raise PermissionDenied
        if facility.startswith("staff/") and not (user and user.is_staff):
            return []
        return ["subscribe-broadcast"] if facility.startswith("quiet/") else None


class ChatView(TemplateView):
    """The page of a chat; what is posted goes to the audience that is named by `audience`."""

    audience = ""
    old = False
    """With templates as sites of django-websocket-redis have them."""

    def get_template_names(self):
        """Names the page of this chat, in the new or in the old form."""
        name = f"{self.audience or 'broadcast'}_chat.html"
        return [f"old/{name}" if self.old else name]

    def get_context_data(self, **kwargs):
        """Adds who may be spoken to, and where the page connects to."""
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
    """Everybody; whoever opens the page greets them all."""

    http_method_names = ["get", "head", "options"]

    def get(self, request, *args, **kwargs):
        """Greets, then shows the page."""
        RedisPublisher(facility=FACILITY, broadcast=True).publish_message("Hello everybody")
        return super().get(request, *args, **kwargs)


class UserChatView(ChatView):
    """One user, in all of their browsers."""

    audience = "user"


class GroupChatView(ChatView):
    """The members of a group."""

    audience = "group"


async def publish_async(request):
    """Publishes to everybody from an async view."""
    receivers = await RedisPublisher(facility=FACILITY, broadcast=True).apublish_message(
        request.GET["message"]
    )
    return HttpResponse(f"{receivers} receivers", content_type="text/plain")
