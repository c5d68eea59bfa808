"""The users of the site."""

from django.contrib.auth.models import Group, User

PASSWORD = "secret"
# Two users with one shared group and one group each.
GROUPS = {"john": ["chatusers", "red team"], "mary": ["blue team", "chatusers"], "admin": []}


def make_people():
    """Creates users and groups, or resets them."""
    for username, names in GROUPS.items():
        user, _ = User.objects.get_or_create(username=username)
        user.is_active = True
        user.is_staff = user.is_superuser = username == "admin"
        user.set_password(PASSWORD)
        user.save()
        user.groups.set([Group.objects.get_or_create(name=name)[0] for name in names])
