"""Views that call the package as a site does, with arguments from the request's JSON."""

import base64
import json

from django.contrib.auth import authenticate, login
from django.http import HttpResponse, JsonResponse
from django.urls import path
from ws4redis.publisher import RedisPublisher
from ws4redis.redis_store import SELF, RedisMessage


def publisher(request, wanted):
    """Returns a publisher; `"SELF"` in a list becomes the package's SELF."""
    audiences = {
        name: [SELF if item == "SELF" else item for item in wanted.get(name, [])]
        for name in ("users", "groups", "sessions")
    }
    return RedisPublisher(
        request=request, facility=wanted["facility"], broadcast=wanted.get("broadcast", False), **audiences
    )


def payload(wanted):
    return base64.b64decode(wanted["base64"]) if "base64" in wanted else wanted["message"]


def hello(request, facility):
    """The example of the package's documentation."""
    redis_publisher = RedisPublisher(facility=facility, broadcast=True)
    message = RedisMessage("Hello")
    redis_publisher.publish_message(message)
    return HttpResponse("published")


def publish(request):
    wanted = json.loads(request.body)
    message = RedisMessage(payload(wanted))
    if message is None:
        return JsonResponse({"refused": "the message is a heartbeat"}, status=400)
    publisher(request, wanted).publish_message(message, expire=wanted.get("expire"))
    return JsonResponse({})


def pipeline(request):
    """Publishes all messages in one pipeline on the package's own connection."""
    wanted = json.loads(request.body)
    store = publisher(request, wanted)
    pipe = store._connection.pipeline(transaction=wanted["transaction"])
    for text in wanted["messages"]:
        for channel in store._publishers:
            pipe.publish(channel, RedisMessage(text))
            pipe.setex(channel, 60, RedisMessage(text))
    pipe.execute()
    return JsonResponse({})


def fetch(request):
    wanted = json.loads(request.body)
    found = RedisPublisher().fetch_message(request, wanted["facility"], wanted.get("audience", "any"))
    return JsonResponse({"found": None if found is None else base64.b64encode(found).decode()})


def sign_in(request):
    wanted = json.loads(request.body)
    user = authenticate(request, username=wanted["username"], password="secret")
    login(request, user)
    return JsonResponse({"session": request.session.session_key})


urlpatterns = [
    path("hello/<str:facility>", hello),
    path("publish", publish),
    path("pipeline", pipeline),
    path("fetch", fetch),
    path("login", sign_in),
]
