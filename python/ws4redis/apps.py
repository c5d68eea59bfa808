"""The Django app."""

from django.apps import AppConfig


class WS4RedisConfig(AppConfig):
    """Connects the signal receivers and registers the system checks; has no database tables."""

    name = "ws4redis"
    verbose_name = "WebSockets for Redis"

    def ready(self) -> None:
        """Connects and registers once all apps are loaded."""
        from ws4redis import checks, receivers

        checks.register()
        receivers.connect()
