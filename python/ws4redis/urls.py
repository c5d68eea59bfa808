"""URLs of the callback view: `path("ws4redis/", include("ws4redis.urls"))` serves it at /ws4redis/identity/."""

from django.urls import path

from ws4redis.views import IdentityView

app_name = "ws4redis"
urlpatterns = [path("identity/", IdentityView.as_view(), name="identity")]
