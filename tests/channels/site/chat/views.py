"""The page and its API, the same in both forms but for the imports."""

from asgiref.sync import async_to_sync
from channels.layers import get_channel_layer
from chat.models import Chat, Message
from django.conf import settings
from django.contrib.auth import authenticate, login, logout
from django.core import signing
from django.shortcuts import get_object_or_404, render
from django.views.decorators.csrf import ensure_csrf_cookie
from rest_framework import generics, serializers
from rest_framework.exceptions import AuthenticationFailed
from rest_framework.permissions import IsAuthenticated
from rest_framework.response import Response
from rest_framework.views import APIView

if settings.SERVER == "channels":
    from chat.consumers import announce, membership_changed
else:
    from chat.gateway import announce, membership_changed


@ensure_csrf_cookie
def page(request):
    return render(request, f"{settings.SERVER}.html", {"sockets": getattr(settings, "SOCKETS", None)})


class Login(APIView):
    def post(self, request):
        user = authenticate(request, username=request.data["username"], password=request.data["password"])
        if user is None:
            raise AuthenticationFailed
        login(request, user)
        return Response({"user": user.get_username(), "token": signing.dumps(user.pk)})


class Logout(APIView):
    def post(self, request):
        logout(request)
        return Response()


class ChatSerializer(serializers.ModelSerializer):
    class Meta:
        model = Chat
        fields = ["id", "name"]


class Announcements(APIView):
    def post(self, request):
        announce(request.data["text"])
        return Response()


class Chats(generics.ListAPIView):
    permission_classes = [IsAuthenticated]
    serializer_class = ChatSerializer

    def get_queryset(self):
        return self.request.user.chats.order_by("pk")


class Membership(APIView):
    permission_classes = [IsAuthenticated]

    def post(self, request, pk):
        self.change(pk, joined=True)
        return Response()

    def delete(self, request, pk):
        self.change(pk, joined=False)
        return Response()

    def change(self, pk, joined):
        members, user = get_object_or_404(Chat, pk=pk).members, self.request.user
        if joined:
            members.add(user)
        else:
            members.remove(user)
        membership_changed(user, pk, joined)


class MessageSerializer(serializers.ModelSerializer):
    author = serializers.CharField(source="author.username", read_only=True)

    class Meta:
        model = Message
        fields = ["id", "chat", "author", "text", "sent"]


class Messages(generics.CreateAPIView):
    permission_classes = [IsAuthenticated]
    serializer_class = MessageSerializer

    def perform_create(self, serializer):
        chat = serializer.validated_data["chat"]
        get_object_or_404(self.request.user.chats, pk=chat.pk)
        serializer.save(author=self.request.user)
        event = {"type": "new_message", "message": serializer.data}
        async_to_sync(get_channel_layer().group_send)(f"chat_{chat.pk}", event)
