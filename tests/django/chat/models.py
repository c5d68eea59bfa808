"""A proxy, as sites make them for their admin."""

from django.contrib.auth.models import User


class Staff(User):
    """The same users under another name."""

    class Meta:
        proxy = True
