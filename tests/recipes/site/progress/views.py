from django.contrib.auth.decorators import login_required
from django.http import JsonResponse
from django.shortcuts import render
from django.views.decorators.http import require_POST

from progress.tasks import work


@login_required
def page(request):
    return render(request, "progress/page.html")


@login_required
@require_POST
def start(request):
    task = work.delay(request.user.get_username(), int(request.POST["total"]))
    return JsonResponse({"task": task.id})
