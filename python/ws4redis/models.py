"""No models: the place from which django-websocket-redis connected its login receiver."""

from ws4redis.receivers import store_groups_in_session

__all__ = ["store_groups_in_session"]
