"""Helpers of django-websocket-redis that sites import."""

from ws4redis.redis_store import is_authenticated

__all__ = ["is_authenticated"]
