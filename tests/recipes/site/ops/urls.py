from django.contrib.auth.decorators import login_required
from django.urls import path
from django.views.generic import TemplateView

# For all users, so that the test sees that others receive nothing; use staff_member_required.
urlpatterns = [path("", login_required(TemplateView.as_view(template_name="ops/page.html")))]
