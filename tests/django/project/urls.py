"""The site's pages."""

from chat import views
from django.contrib.auth.views import LoginView, LogoutView, PasswordChangeView
from django.urls import include, path

urlpatterns = [
    path("", views.WhoView.as_view(), name="who"),
    path("chat/", views.BroadcastChatView.as_view(), name="broadcast_chat"),
    path("userchat/", views.UserChatView.as_view(), name="user_chat"),
    path("groupchat/", views.GroupChatView.as_view(), name="group_chat"),
    path("old/chat/", views.BroadcastChatView.as_view(old=True)),
    path("old/userchat/", views.UserChatView.as_view(old=True)),
    path("old/groupchat/", views.GroupChatView.as_view(old=True)),
    path("async/", views.publish_async, name="async"),
    path("accounts/login/", LoginView.as_view(), name="login"),
    path("accounts/logout/", LogoutView.as_view(), name="logout"),
    path("accounts/password/", PasswordChangeView.as_view(success_url="/"), name="password"),
    path("ws4redis/", include("ws4redis.urls")),
    path("rules/", views.RulesView.as_view(), name="rules"),
]
