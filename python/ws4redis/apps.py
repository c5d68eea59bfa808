"""The Django app."""

import django
from django.apps import AppConfig
from django.core.exceptions import ImproperlyConfigured

OLDEST_DJANGO = (3, 2)


class WS4RedisConfig(AppConfig):
    """Connect the signal receivers and register the system checks. There are no database tables."""

    name = "ws4redis"
    verbose_name = "WebSockets for Redis"

    def ready(self) -> None:
        """Connect and register, once all apps are loaded.

        Raises:
            ImproperlyConfigured: Files of django-websocket-redis have replaced those of this package, or Django is too old.
        """
        if django.VERSION < OLDEST_DJANGO:
            raise ImproperlyConfigured(
                f"This package does not support Django {django.__version__}. Keep django-websocket-redis and change only "
                'the server: "Sites below Django 4.2" in docs/django.md.'
            )
        from ws4redis import settings

        if not hasattr(settings, "DEFAULTS"):
            raise ImproperlyConfigured(
                "django-websocket-redis was installed over this package, and has replaced its files. "
                "pip uninstall django-websocket-redis, then pip install --force-reinstall --no-deps this package."
            )
        from ws4redis import checks, gateway_checks, receivers

        checks.register()
        gateway_checks.register()
        receivers.connect()
