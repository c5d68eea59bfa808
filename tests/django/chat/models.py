"""A proxy model, as sites define them for their admin."""

from django.contrib.auth.models import User


class Staff(User):
    """Users under another model name."""

    class Meta:
        proxy = True
