"""Users with another kind of key, known by their address, without groups."""

import uuid

from django.contrib.auth.models import AbstractBaseUser, BaseUserManager
from django.db import models


class Member(AbstractBaseUser):
    """A member; teams are a plain text."""

    id = models.UUIDField(primary_key=True, default=uuid.uuid4)
    email = models.EmailField(unique=True)
    teams = models.TextField(default="", blank=True)
    is_active = models.BooleanField(default=True)

    USERNAME_FIELD = "email"
    objects = BaseUserManager()


def teams_of(member):
    """The names of the member's teams."""
    return member.teams.split()
