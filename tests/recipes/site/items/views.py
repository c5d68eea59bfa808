from django.http import HttpResponse
from django.shortcuts import render
from django.views.decorators.http import require_POST

from items.models import Item


def table(request, template):
    return render(request, template, {"items": Item.objects.all()})


def library(request, name):
    return table(request, f"items/{name}.html")


@require_POST
def add(request):
    Item.objects.create(name=request.POST["name"], stock=request.POST["stock"])
    return HttpResponse(status=204)
