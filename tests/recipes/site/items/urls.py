from django.urls import path

from items import views

urlpatterns = [
    path("add/", views.add),
    path("table/", views.table, {"template": "items/table.html"}),
    path("<slug:name>/", views.library),
]
