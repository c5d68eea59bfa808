"""No models. django-websocket-redis defines its login receiver in this module, and sites import it from here."""

from ws4redis.receivers import store_groups_in_session

__all__ = ["store_groups_in_session"]
