from django.contrib.auth.decorators import login_required
from django.http import HttpResponse, JsonResponse
from django.shortcuts import render
from django.views.decorators.http import require_POST
from ws4redis.publisher import RedisPublisher

from chat.models import Message


@login_required
@require_POST
def say(request, room):
    message = Message.objects.create(room=room, author=request.user, text=request.POST["text"])
    RedisPublisher(facility=f"chat-{room}", broadcast=True).publish_json(message.as_json(), expire=0)
    return HttpResponse(status=204)


def messages_of(room, after=0):
    newest = Message.objects.filter(room=room, pk__gt=after).select_related("author").order_by("-pk")[:50]
    return [message.as_json() for message in reversed(newest)]


@login_required
def room(request, room, template="room"):
    return render(request, f"chat/{template}.html", {"room": room, "messages": messages_of(room)})


@login_required
def messages(request, room):
    return JsonResponse({"messages": messages_of(room, after=int(request.GET["after"]))})


@login_required
def web(request, room, name):
    return render(request, "chat/web.html", {"room": room, "script": f"web/{name}.js"})
