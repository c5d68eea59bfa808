from chat import views
from django.urls import path

urlpatterns = [
    path("", views.page),
    path("api/login/", views.Login.as_view()),
    path("api/logout/", views.Logout.as_view()),
    path("api/announcements/", views.Announcements.as_view()),
    path("api/chats/", views.Chats.as_view()),
    path("api/chats/<int:pk>/membership/", views.Membership.as_view()),
    path("api/messages/", views.Messages.as_view()),
]
