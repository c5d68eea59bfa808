from django.contrib.auth.views import LoginView
from django.urls import include, path

urlpatterns = [
    path("login/", LoginView.as_view(), name="login"),
    path("notifications/", include("notifications.urls")),
    path("chat/", include("chat.urls")),
    path("progress/", include("progress.urls")),
    path("items/", include("items.urls")),
    path("ops/", include("ops.urls")),
]
