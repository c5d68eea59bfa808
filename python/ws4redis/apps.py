"""The Django app."""

from django.apps import AppConfig


class WS4RedisConfig(AppConfig):
    """Connect the signal receivers and register the system checks. There are no database tables."""

    name = "ws4redis"
    verbose_name = "WebSockets for Redis"

    def ready(self) -> None:
        """Connect and register, once all apps are loaded."""
        from ws4redis import checks, receivers

        checks.register()
        receivers.connect()
