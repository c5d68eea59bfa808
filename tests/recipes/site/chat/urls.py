from django.urls import path

from chat import views

urlpatterns = [
    path("<slug:room>/", views.room),
    path("<slug:room>/say/", views.say),
    path("<slug:room>/messages/", views.messages),
    path("<slug:room>/web/<slug:name>/", views.web),
    path("<slug:room>/<slug:template>/", views.room),
]
