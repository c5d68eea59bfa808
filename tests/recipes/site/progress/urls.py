from django.urls import path

from progress import views

urlpatterns = [path("", views.page), path("start/", views.start)]
