"""The sockets of the form with Channels. The form with the gateway has no consumers."""

from asgiref.sync import async_to_sync
from channels.db import database_sync_to_async
from channels.generic.websocket import AsyncJsonWebsocketConsumer
from channels.layers import get_channel_layer
from django.contrib.auth import get_user_model
from django.core import signing

EVERYBODY = "everybody"


class ChatConsumer(AsyncJsonWebsocketConsumer):
    async def connect(self):
        self.joined = set()
        await self.join(EVERYBODY)
        await self.accept()
        if self.scope["user"].is_authenticated:
            await self.join_chats(self.scope["user"])

    async def disconnect(self, code):
        for group in self.joined:
            await self.channel_layer.group_discard(group, self.channel_name)

    async def receive_json(self, content, **kwargs):
        # The page logs in after its socket is open.
        if content.get("type") == "login":
            pk = signing.loads(content["token"], max_age=60)
            await self.join_chats(await get_user_model().objects.aget(pk=pk))

    async def join(self, group):
        self.joined.add(group)
        await self.channel_layer.group_add(group, self.channel_name)

    async def join_chats(self, user):
        await self.join(f"user_{user.pk}")
        for pk in await self.chats_of(user):
            await self.join(f"chat_{pk}")
        await self.send_json({"type": "logged_in", "user": user.get_username()})

    @database_sync_to_async
    def chats_of(self, user):
        return list(user.chats.values_list("pk", flat=True))

    # ---- Events of the groups

    async def new_message(self, event):
        await self.send_json({"type": "chat_message", "message": event["message"]})

    async def membership(self, event):
        group = f"chat_{event['chat']}"
        if event["joined"]:
            await self.join(group)
        elif group in self.joined:
            self.joined.remove(group)
            await self.channel_layer.group_discard(group, self.channel_name)


def membership_changed(user, chat, joined):
    event = {"type": "membership", "chat": chat, "joined": joined}
    async_to_sync(get_channel_layer().group_send)(f"user_{user.pk}", event)


def announce(text):
    message = {"chat": None, "author": "site", "text": text}
    async_to_sync(get_channel_layer().group_send)("everybody", {"type": "new_message", "message": message})
