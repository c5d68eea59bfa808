from django.contrib.auth import get_user_model
from django.contrib.auth.decorators import login_required
from django.http import HttpResponse
from django.shortcuts import get_object_or_404, render
from django.views.decorators.http import require_POST

from notifications.receivers import show_badge
from notifications.tasks import export


@login_required
def inbox(request, template):
    unread = request.user.notifications.filter(is_read=False)
    return render(request, template, {"unread": unread.count(), "notifications": unread})


@login_required
@require_POST
def wave(request, username):
    user = get_object_or_404(get_user_model(), username=username)
    user.notifications.create(text=f"{request.user} waves")
    return HttpResponse(status=204)


@login_required
@require_POST
def start_export(request):
    export.delay(request.user.pk)
    return HttpResponse(status=204)


@login_required
@require_POST
def mark_read(request):
    request.user.notifications.update(is_read=True)
    # update() sends no signals.
    show_badge(request.user)
    return HttpResponse(status=204)
