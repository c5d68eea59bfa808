"""Registration of handlers, and their calls for an event.

`manage.py ws4redis_worker` imports the module `ws4redis_handlers` of each installed app, where a site registers them:

    @ws4redis.on_message("chat-*")
    def store(event):
        Message.objects.create(room=event.facility, author=event.user, text=event.data)
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from inspect import iscoroutinefunction
from typing import Any, Callable, Protocol, TypeVar, overload

from asgiref.sync import async_to_sync
from django.utils.module_loading import autodiscover_modules

from ws4redis import events, signals
from ws4redis.events import Event

Handler = Callable[[Event], Any]
H = TypeVar("H", bound=Handler)


class HandlerDecorator(Protocol):
    """A decorator that returns the function as it is; type checkers lose its type with an alias of Callable."""

    def __call__(self, handler: H, /) -> H:
        """Register the handler."""


# The module that is imported from each installed app.
MODULE = "ws4redis_handlers"


@dataclass(frozen=True)
class Registration:
    """A handler and the events that it handles. None in a filter admits all events."""

    handler: Handler
    type: str
    # Of facilities or Socket.IO events.
    patterns: tuple[re.Pattern[str], ...] = ()
    namespace: str | None = None
    dialect: str | None = None
    state: str | None = None

    def admits(self, event: Event) -> bool:
        """Return True if the handler handles the event."""
        name = event.event if self.type == events.CLIENT_EVENT else event.facility
        return (
            self.type == event.type
            and (
                not self.patterns or (name is not None and any(one.fullmatch(name) for one in self.patterns))
            )
            and self.namespace in (None, event.namespace)
            and self.dialect in (None, event.dialect)
            and self.state in (None, event.state)
        )


_registrations: list[Registration] = []


def discover() -> None:
    """Import the module `ws4redis_handlers` of each installed app."""
    autodiscover_modules(MODULE)


def any_registered() -> bool:
    """Return True if there is a handler, or a receiver of one of the signals."""
    return bool(_registrations) or any(signal.has_listeners() for signal in signals.BY_TYPE.values())


# ---- Decorators ------------------------------------------------------------------------------------------------------


@overload
def on_message(first: H, /) -> H: ...
@overload
def on_message(*facilities: str, dialect: str | None = None) -> HandlerDecorator: ...


def on_message(*facilities: str | Handler, dialect: str | None = None) -> Any:
    """Register a handler of the messages that clients publish.

    Args:
        *facilities: Names of facilities, or patterns with `*` and `?`, as in the gateway's settings. None: all facilities.
        dialect: Only messages of this dialect, such as `relay`.

    Raises:
        TypeError: A name is not a str.
        ValueError: A name is empty.
    """
    return _register(events.MESSAGE, facilities, dialect=dialect)


@overload
def on_event(first: H, /) -> H: ...
@overload
def on_event(*names: str, namespace: str | None = "/") -> HandlerDecorator: ...


def on_event(*names: str | Handler, namespace: str | None = "/") -> Any:
    """Register a handler of the events that Socket.IO clients emit.

    If the client requests an acknowledgement, it gets the handler's return value: a tuple stands for several arguments,
    None for none. With several handlers the first value other than None counts.

    Args:
        *names: Names of events, `prefix*` for all that begin so. None: all events.
        namespace: Name of the namespace; None: all namespaces.

    Raises:
        TypeError: A name is not a str.
        ValueError: A name is empty, or has an asterisk before its end.
    """
    return _register(events.CLIENT_EVENT, names, namespace=namespace)


@overload
def on_connect(first: H, /) -> H: ...
@overload
def on_connect(
    *facilities: str, namespace: str | None = None, dialect: str | None = None
) -> HandlerDecorator: ...


def on_connect(*facilities: str | Handler, namespace: str | None = None, dialect: str | None = None) -> Any:
    """Register a handler of new connections.

    Args:
        *facilities: Names of facilities, or patterns with `*` and `?`. None: all connections, also those of Socket.IO.
        namespace: Only connections to this namespace of Socket.IO.
        dialect: Only connections of this dialect, such as `relay` or `socket_io`.

    Raises:
        TypeError: A name is not a str.
        ValueError: A name is empty.
    """
    return _register(events.CONNECT, facilities, namespace=namespace, dialect=dialect)


@overload
def on_disconnect(first: H, /) -> H: ...
@overload
def on_disconnect(
    *facilities: str, namespace: str | None = None, dialect: str | None = None
) -> HandlerDecorator: ...


def on_disconnect(
    *facilities: str | Handler, namespace: str | None = None, dialect: str | None = None
) -> Any:
    """Register a handler of connections that ended. Parameters and errors are those of `on_connect`.

    Raises:
        TypeError: As for `on_connect`.
        ValueError: As for `on_connect`.
    """
    return _register(events.DISCONNECT, facilities, namespace=namespace, dialect=dialect)


@overload
def on_user(first: H, /) -> H: ...
@overload
def on_user(
    *facilities: str, namespace: str | None = None, dialect: str | None = None
) -> HandlerDecorator: ...


def on_user(*facilities: str | Handler, namespace: str | None = None, dialect: str | None = None) -> Any:
    """Register a handler of open connections whose identity changed. Parameters and errors are those of `on_connect`.

    Raises:
        TypeError: As for `on_connect`.
        ValueError: As for `on_connect`.
    """
    return _register(events.USER, facilities, namespace=namespace, dialect=dialect)


@overload
def on_online(first: H, /) -> H: ...
@overload
def on_online() -> HandlerDecorator: ...


def on_online(*handler: Handler) -> Any:
    """Register a handler of users who came online: with their first connection over all gateways.

    Raises:
        TypeError: The argument is not a function.
    """
    return _register(events.ONLINE, handler, takes_names=False)


@overload
def on_offline(first: H, /) -> H: ...
@overload
def on_offline() -> HandlerDecorator: ...


def on_offline(*handler: Handler) -> Any:
    """Register a handler of users who went offline: their last connection over all gateways ended.

    Raises:
        TypeError: The argument is not a function.
    """
    return _register(events.OFFLINE, handler, takes_names=False)


@overload
def on_node(first: H, /) -> H: ...
@overload
def on_node(*, state: str | None = None) -> HandlerDecorator: ...


def on_node(*handler: Handler, state: str | None = None) -> Any:
    """Register a handler of gateway processes that start or stop.

    Args:
        *handler: The handler, where the decorator is used without parentheses.
        state: `start` or `stop`; None: both.

    Raises:
        TypeError: The argument is not a function.
        ValueError: The state is another one.
    """
    if state not in (None, "start", "stop"):
        raise ValueError(f"state must be 'start', 'stop' or None, not {state!r}")
    return _register(events.NODE, handler, takes_names=False, state=state)


def _register(
    type: str,
    given: tuple[Any, ...],
    *,
    takes_names: bool = True,
    namespace: str | None = None,
    dialect: str | None = None,
    state: str | None = None,
) -> Any:  # noqa: ANN401 - the function itself, or a decorator
    if len(given) == 1 and callable(given[0]):
        _registrations.append(Registration(given[0], type, (), namespace, dialect, state))
        return given[0]
    for name in given:
        if not takes_names or not isinstance(name, str):
            raise TypeError(f"expected a {'name (str)' if takes_names else 'function'}, not {name!r}")
    patterns = tuple(_compiled(name, type) for name in given)

    def register(handler: H) -> H:
        if not callable(handler):
            raise TypeError(f"expected a function, not {handler!r}")
        _registrations.append(Registration(handler, type, patterns, namespace, dialect, state))
        return handler

    return register


def _compiled(pattern: str, type: str) -> re.Pattern[str]:
    if type == events.CLIENT_EVENT and not re.fullmatch(r"[^*]+|[^*]*\*", pattern, re.DOTALL):
        raise ValueError(f"{pattern!r} must be a name, or a prefix that ends with an asterisk")
    if not pattern:
        raise ValueError("a pattern must not be empty")
    wildcards = {"*": ".*"} if type == events.CLIENT_EVENT else {"*": ".*", "?": "."}
    return re.compile("".join(wildcards.get(one) or re.escape(one) for one in pattern), re.DOTALL)


# ---- Calls -----------------------------------------------------------------------------------------------------------


class HandlerFailure(Exception):
    """A handler raised an exception, which is the cause of this one."""

    def __init__(self, handler: str, cause: Exception) -> None:
        """Keep the name of the handler and its exception."""
        super().__init__(f"{handler}: {type(cause).__name__}: {cause}")
        self.handler = handler
        self.__cause__ = cause


class HandlerRun:
    """The calls of all handlers and receivers of one event; a repeated run calls only those that failed."""

    def __init__(self, event: Event) -> None:
        """Select the handlers. Calls none."""
        self.event = event
        # A handler that is registered twice is called once. Callable objects may lack a hash.
        found = {id(one.handler): one.handler for one in _registrations if one.admits(event)}
        self._handlers = list(found.values())
        self._results: dict[int, object] = {}
        self._receivers: list[Callable[..., Any]] | None = None

    @property
    def is_handled(self) -> bool:
        """True if the event has a registered handler; receivers of signals do not count."""
        return bool(self._handlers)

    def acknowledgement(self) -> list[object]:
        """Return the arguments of the acknowledgement: the first result other than None, in order of registration."""
        for handler in self._handlers:
            result = self._results.get(id(handler))
            if result is not None:
                return list(result) if isinstance(result, tuple) else [result]
        return []

    def call(self) -> list[HandlerFailure]:
        """Call all handlers and receivers that have not succeeded yet. Return those that failed."""
        return [*self._call_handlers(), *self._send_signal()]

    def _call_handlers(self) -> Iterator[HandlerFailure]:
        for handler in self._handlers:
            if id(handler) in self._results:
                continue
            try:
                self._results[id(handler)] = _call(handler, self.event)
            except Exception as error:
                yield HandlerFailure(_name(handler), error)

    def _send_signal(self) -> Iterator[HandlerFailure]:
        signal = signals.BY_TYPE.get(self.event.type)
        if signal is None:
            return
        if self._receivers is None:
            outcomes = signal.send_robust(sender=Event, event=self.event)
        else:
            outcomes = []
            for receiver in self._receivers:
                try:
                    _call(receiver, signal=signal, sender=Event, event=self.event)
                except Exception as error:
                    outcomes.append((receiver, error))
        failed = [(receiver, outcome) for receiver, outcome in outcomes if isinstance(outcome, Exception)]
        self._receivers = [receiver for receiver, _ in failed]
        for receiver, outcome in failed:
            yield HandlerFailure(_name(receiver), outcome)


def _call(function: Callable[..., Any], *arguments: object, **named: object) -> object:
    if iscoroutinefunction(function):
        function = async_to_sync(function)
    return function(*arguments, **named)


def _name(function: Callable[..., Any]) -> str:
    module = getattr(function, "__module__", None)
    name = getattr(function, "__qualname__", None) or type(function).__qualname__
    return f"{module}.{name}" if module else name
