from django.apps import AppConfig


class ItemsConfig(AppConfig):
    name = "items"

    def ready(self):
        from items import forms_of_libraries, receivers  # noqa: F401
