"""Users with a UUID key, an email address as username, and no groups."""

import uuid

from django.contrib.auth.models import AbstractBaseUser, BaseUserManager
from django.db import models


class Member(AbstractBaseUser):
    """A member; `teams` is a space-separated text."""

    id = models.UUIDField(primary_key=True, default=uuid.uuid4)
    email = models.EmailField(unique=True)
    teams = models.TextField(default="", blank=True)
    is_active = models.BooleanField(default=True)

    USERNAME_FIELD = "email"
    objects = BaseUserManager()


def teams_of(member):
    """Returns the names of the member's teams."""
    return member.teams.split()
