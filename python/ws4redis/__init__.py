"""Django integration of the ws4redis gateway, with the import paths of django-websocket-redis."""

__version__ = "0.1.0"
