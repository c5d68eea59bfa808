from django.urls import path

from notifications import views

urlpatterns = [
    path("", views.inbox, {"template": "notifications/inbox.html"}),
    path("alpine/", views.inbox, {"template": "notifications/alpine.html"}),
    path("wave/<str:username>/", views.wave),
    path("export/", views.start_export),
    path("read/", views.mark_read),
]
