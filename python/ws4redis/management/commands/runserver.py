"""`manage.py runserver` with WebSockets: Django's command, or that of another app below, with a gateway on the same port."""

from __future__ import annotations

import os
import socket
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from django.apps import apps
from django.core.management import find_commands
from django.core.management.base import BaseCommand
from django.utils import autoreload

import ws4redis
from ws4redis import binary, settings

if TYPE_CHECKING:
    from argparse import ArgumentParser

    from ws4redis.development import DevelopmentServer, KeeperLink


def _next_command() -> type[BaseCommand]:
    """Return the command that Django would run without this app, so that its options go on working."""
    names = [config.name for config in apps.get_app_configs()]
    below = names[names.index("ws4redis") + 1 :] if "ws4redis" in names else []
    for config in apps.get_app_configs():
        if config.name in below and "runserver" in find_commands(str(Path(config.path) / "management")):
            return import_module(f"{config.name}.management.commands.runserver").Command  # type: ignore[no-any-return]
    return import_module("django.core.management.commands.runserver").Command  # type: ignore[no-any-return]


Base: Any = _next_command()


class Command(Base):  # type: ignore[misc]
    """Run the development server, and a gateway that it starts and ends."""

    help = f"{Base.help} Starts a ws4redis gateway for WebSockets on the same port."

    def add_arguments(self, parser: ArgumentParser) -> None:
        """Add `--no-gateway`."""
        super().add_arguments(parser)
        parser.add_argument(
            "--no-gateway",
            action="store_false",
            dest="use_gateway",
            help="Do not start a ws4redis gateway; WebSockets are not served on this port.",
        )

    def run(self, **options: Any) -> None:  # noqa: ANN401 - Django's options
        """Run the server; in the process that the autoreloader does not restart, keep the gateway."""
        # call_command() may omit the options of this class.
        obstacle = self._obstacle() if options.get("use_gateway", True) else ""
        if obstacle is not None:
            # The process that reloads says nothing; its child does.
            if obstacle and (not options.get("use_reloader") or _is_reloaded()):
                self.stderr.write(self.style.WARNING(obstacle))
            super().run(**options)
            return
        from ws4redis.development import VARIABLE, KeeperLink, new_secret
        from ws4redis.gateway_keeper import Keeper

        link = KeeperLink.from_environment() if _is_reloaded() else None
        if link is not None:
            self._serve_with(link, **options)
            return
        keeper = Keeper()
        keeper.start()
        link = KeeperLink(keeper.server_end, new_secret())
        os.environ[VARIABLE] = link.as_variable()
        try:
            self._serve_with(link, **options)
        finally:
            os.environ.pop(VARIABLE, None)
            keeper.stop()

    def _serve_with(self, link: KeeperLink, **options: Any) -> None:  # noqa: ANN401 - Django's options
        from ws4redis import views

        self._link = link
        # Also keeps the system check silent that asks for a callback.
        views.run_secrets.append(link.secret)
        super().run(**options)

    def inner_run(self, *args: Any, **options: Any) -> None:  # noqa: ANN401 - Django's options
        """Serve, with a server that passes WebSockets on."""
        if hasattr(self, "_link"):
            from ws4redis.development import DevelopmentServer

            self.server_cls = type(
                "DevelopmentServer",
                (DevelopmentServer,),
                {"link": self._link, "on_listening": self._start_gateway},
            )
        super().inner_run(*args, **options)

    def get_handler(self, *args: Any, **options: Any) -> Any:  # noqa: ANN401 - Django's options
        """Return Django's handler, which also identifies visitors for the gateway."""
        handler = super().get_handler(*args, **options)
        if not hasattr(self, "_link"):
            return handler
        from ws4redis.development import WithIdentityView

        return WithIdentityView(handler)

    def _obstacle(self) -> str | None:
        """Return why there is no gateway, or None if there is one."""
        without = "The site is served without WebSockets."
        if not hasattr(socket, "send_fds") or not hasattr(socket, "AF_UNIX"):
            return f"The ws4redis gateway needs a Unix. {without}"
        app = Base.__module__.partition(".")[0]
        # Also with --noasgi: they choose the server themselves. Channels had one before version 4.
        if app in ("daphne", "channels"):
            return f"runserver is that of {app} here, which does not pass connections to the ws4redis gateway. {without}"
        try:
            binary.find()
        except binary.BinaryNotFound as error:
            return f"{error} {without}"
        return None

    def _start_gateway(self, server: DevelopmentServer) -> tuple[str, ...]:
        """Have the gateway started for a server that listens; return its paths."""
        from ws4redis import development

        if not development.websocket_url_is_usable():
            self.stderr.write(
                self.style.ERROR(f"WEBSOCKET_URL {settings.WEBSOCKET_URL!r} leaves no path for Django")
            )
            return ()
        address, port = server.server_address[:2]
        try:
            path = binary.find()
            derived, store = development.settings_for(str(address), port, self._link.secret)
            self._link.send_settings(path, derived.as_toml(secrets=True), settings.WEBSOCKET_URL)
        except (binary.BinaryNotFound, ValueError, OSError) as error:
            self.stderr.write(self.style.ERROR(f"The ws4redis gateway cannot be started: {error}"))
            return ()
        paths = development.paths_of(derived)
        version = binary.version_of(path)
        self.stdout.write(
            f"WebSockets at {', '.join(paths)} by the ws4redis gateway {version or ''}; {store}."
        )
        if version and version != ws4redis.__version__:
            self.stderr.write(
                self.style.WARNING(f"{path} has version {version}, the Python package {ws4redis.__version__}")
            )
        return paths


def _is_reloaded() -> bool:
    return os.environ.get(autoreload.DJANGO_AUTORELOAD_ENV) == "true"
