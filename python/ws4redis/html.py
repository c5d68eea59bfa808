"""Publish rendered templates and named events, for pages that swap in HTML: with htmx, Turbo, Datastar and others.

    publish_html("items", "items/row.html", {"item": item}, wrap=oob("beforeend:#items", "tbody"), broadcast=True)

Persisted messages reach pages that connect later, and again after each reconnect. A fragment that replaces something may
arrive twice; publish one that appends with `expire=0`, or give its elements ids.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Callable, Final, Protocol, TypedDict, Union

from asgiref.sync import sync_to_async
from django.db import transaction
from django.template.loader import get_template, select_template
from django.utils.html import escape

from ws4redis.publisher import RedisPublisher
from ws4redis.redis_store import WrongArgument, encode_json

if TYPE_CHECKING:
    from django.http import HttpRequest
    from typing_extensions import Unpack

    from ws4redis.redis_store import Names


class Audiences(TypedDict, total=False):
    """The arguments that select the channels, as for `RedisPublisher`."""

    request: HttpRequest | None
    broadcast: bool
    groups: Names
    users: Names
    sessions: Names
    history: bool | None


class Template(Protocol):
    """A template that is loaded already, of any template engine."""

    def render(self, context: dict[str, Any] | None = None) -> str:
        """Return the text."""


class Wrapper(Protocol):
    """A function that puts HTML into the form that a library expects. Some actions need no HTML."""

    def __call__(self, html: str = "", /) -> str:
        """Return the text to publish."""


# A name, names of which the first that exists is used, or a template.
TemplateName = Union[str, Sequence[str], Template]

# Events of the gateway itself, as in docs/protocol.md.
RESERVED_EVENTS: Final = frozenset({"binary", "close", "error", "heartbeat", "open"})

_EVENT_NAME: Final = re.compile(r"[A-Za-z0-9_.:-]{1,64}", re.ASCII)
_LINE_END: Final = re.compile(r"\r\n|\r|\n")


# ---- Publishing ------------------------------------------------------------------------------------------------------


def publish_html(
    facility: str,
    template: TemplateName,
    context: Mapping[str, Any] | None = None,
    *,
    wrap: Callable[[str], str] | None = None,
    event: str | None = None,
    expire: int | None = None,
    **audiences: Unpack[Audiences],
) -> int:
    """Render a template and publish the result.

    The template gets no request and no context processors: others receive the fragment, so that it must not contain the
    user or the CSRF token of the visitor that caused it. `audiences` may contain a request, for `SELF` only.

    Args:
        facility: Name of the facility.
        template: Name of a template, names to choose from, or a template.
        context: Variables of the template.
        wrap: `oob(…)`, `turbo_stream(…)`, `datastar(…)`, or a function of your own that gets and returns text.
        event: Name of the event on streams with the flag `event-names`. Other clients get a first line `event: NAME`.
        expire: Seconds, as for `RedisPublisher.publish_message`.
        **audiences: `broadcast`, `groups`, `users`, `sessions`, `request` and `history`, as for `RedisPublisher`.

    Returns:
        The number of subscribers that received the message: gateways, not browsers.

    Raises:
        TypeError: The context contains a request, the name of the event is invalid, or an argument has a wrong type, as
            for `RedisPublisher`. The error is a ValueError as well.
        django.template.TemplateDoesNotExist: There is no such template.
        redis.RedisError: Redis is unreachable or refuses a command.
    """
    text = _rendered(template, context, wrap, event)
    return RedisPublisher(facility=facility, **audiences).publish_message(text, expire)


async def apublish_html(
    facility: str,
    template: TemplateName,
    context: Mapping[str, Any] | None = None,
    *,
    wrap: Callable[[str], str] | None = None,
    event: str | None = None,
    expire: int | None = None,
    **audiences: Unpack[Audiences],
) -> int:
    """Publish as `publish_html` does, for async views. Parameters and result are the same.

    Raises:
        TypeError: As for `publish_html`.
        redis.RedisError: As for `publish_html`.
    """
    # Thread-sensitive, because a template may query the database.
    return await sync_to_async(publish_html)(
        facility, template, context, wrap=wrap, event=event, expire=expire, **audiences
    )


def publish_html_on_commit(
    facility: str,
    template: TemplateName,
    context: Mapping[str, Any] | None = None,
    *,
    wrap: Callable[[str], str] | None = None,
    event: str | None = None,
    expire: int | None = None,
    using: str | None = None,
    **audiences: Unpack[Audiences],
) -> None:
    """Render and publish when the transaction is committed. A rollback discards the message.

    A queryset in the context is evaluated then, and so contains what other transactions have committed meanwhile.

    Args:
        facility: Name of the facility.
        template: As for `publish_html`.
        context: As for `publish_html`.
        wrap: As for `publish_html`.
        event: As for `publish_html`.
        expire: As for `publish_html`.
        using: Alias of the database whose transaction counts; None: the default database.
        **audiences: As for `publish_html`.

    Raises:
        TypeError: As for `publish_html`; raised immediately, not at the commit.
        django.template.TemplateDoesNotExist: As for `publish_html`; raised immediately.
        redis.RedisError: As for `publish_html`; raised by the commit.
    """
    publisher = RedisPublisher(facility=facility, **audiences)
    variables, found = _checked(context), _found(template)
    if event is not None:
        _event(event, "")
    transaction.on_commit(
        lambda: publisher.publish_message(_rendered(found, variables, wrap, event), expire) and None,
        using=using,
    )


def publish_event(
    facility: str, name: str, data: object = "", *, expire: int | None = None, **audiences: Unpack[Audiences]
) -> int:
    """Publish an event with a name, for event streams with the flag `event-names`.

    Other streams and WebSockets get it as text with a first line `event: NAME`.

    Args:
        facility: Name of the facility.
        name: 1 to 64 ASCII letters, digits, `-`, `_`, `.` and `:`, except `binary`, `close`, `error`, `heartbeat` and
            `open`.
        data: A string, or a value that is published as JSON.
        expire: Seconds, as for `RedisPublisher.publish_message`.
        **audiences: As for `publish_html`.

    Returns:
        The number of subscribers that received the message: gateways, not browsers.

    Raises:
        TypeError: The name is invalid, the data has no JSON form, or an argument has a wrong type, as for
            `RedisPublisher`.
        redis.RedisError: Redis is unreachable or refuses a command.
    """
    return RedisPublisher(facility=facility, **audiences).publish_message(_event(name, data), expire)


async def apublish_event(
    facility: str, name: str, data: object = "", *, expire: int | None = None, **audiences: Unpack[Audiences]
) -> int:
    """Publish as `publish_event` does, for async views. Parameters and result are the same.

    Raises:
        TypeError: As for `publish_event`.
        redis.RedisError: As for `publish_event`.
    """
    # Thread-sensitive, because SELF may query the database for the user of the request.
    return await sync_to_async(publish_event)(facility, name, data, expire=expire, **audiences)


def publish_event_on_commit(
    facility: str,
    name: str,
    data: object = "",
    *,
    expire: int | None = None,
    using: str | None = None,
    **audiences: Unpack[Audiences],
) -> None:
    """Publish an event when the transaction is committed. A rollback discards it.

    Args:
        facility: Name of the facility.
        name: As for `publish_event`.
        data: As for `publish_event`.
        expire: As for `publish_event`.
        using: Alias of the database whose transaction counts; None: the default database.
        **audiences: As for `publish_html`.

    Raises:
        TypeError: As for `publish_event`; raised immediately, not at the commit.
        redis.RedisError: As for `publish_event`; raised by the commit.
    """
    text = _event(name, data)
    RedisPublisher(facility=facility, **audiences).publish_message_on_commit(text, expire, using)


# ---- Forms of libraries ----------------------------------------------------------------------------------------------


def oob(swap: str, tag: str = "div") -> Wrapper:
    """Return a wrapper for htmx: an element that htmx swaps in out of band.

    Args:
        swap: Value of `hx-swap-oob`, such as `innerHTML:#badge`, `beforeend:#list` or `delete:#item-5`. `outerHTML`
            would insert the wrapping element itself; write the attribute into the template instead.
        tag: Name of the element, which HTML must admit around the fragment: `tbody` around rows, `ul` around items.

    Raises:
        TypeError: The tag is no name of an element. The error is a ValueError as well.
    """
    if not isinstance(tag, str) or not re.fullmatch(r"[A-Za-z][A-Za-z0-9-]*", tag):
        raise WrongArgument(f"tag must be the name of an element, not {tag!r}")

    def wrap(html: str = "", /) -> str:
        return f'<{tag} hx-swap-oob="{escape(swap)}">{html}</{tag}>'

    return wrap


def turbo_stream(action: str, target: str | None = None, *, targets: str | None = None) -> Wrapper:
    """Return a wrapper for Turbo: a `<turbo-stream>` element.

    Args:
        action: `append`, `prepend`, `replace`, `update`, `before`, `after`, `remove` or `refresh`.
        target: ID of the element that the action changes, without `#`.
        targets: CSS selector of several elements, instead of `target`.

    Raises:
        TypeError: The target is a selector, or both are given. The error is a ValueError as well.
    """
    if target is not None and targets is not None:
        raise WrongArgument("target and targets exclude each other")
    if target is not None and target.startswith(("#", ".")):
        raise WrongArgument(f"target is an id, not a selector: write targets={target!r}")
    attributes = {"action": action, "target": target, "targets": targets}
    head = " ".join(f'{name}="{escape(value)}"' for name, value in attributes.items() if value is not None)
    has_template = action not in ("remove", "refresh")

    def wrap(html: str = "", /) -> str:
        content = f"<template>{html}</template>" if has_template else ""
        return f"<turbo-stream {head}>{content}</turbo-stream>"

    return wrap


def datastar(selector: str | None = None, mode: str = "outer") -> Wrapper:
    """Return a wrapper for Datastar 1.0: its event `datastar-patch-elements`, for streams with the flag `event-names`.

    Args:
        selector: CSS selector of the element to change. None: the elements of the fragment have ids.
        mode: `outer`, `inner`, `replace`, `prepend`, `append`, `before`, `after` or `remove`.

    Raises:
        TypeError: The selector or the mode contains a line break. The error is a ValueError as well.
    """
    options = [("mode", mode if mode != "outer" else None), ("selector", selector)]
    lines = [f"{name} {value}" for name, value in options if value is not None]
    if any(_LINE_END.search(line) for line in lines):
        raise WrongArgument("selector and mode must not contain line breaks")

    def wrap(html: str = "", /) -> str:
        elements = [f"elements {line}" for line in _LINE_END.split(html)] if html else []
        return _event("datastar-patch-elements", "\n".join([*lines, *elements]))

    return wrap


def _checked(context: Mapping[str, Any] | None) -> dict[str, Any]:
    variables = dict(context or {})
    if "request" in variables or "csrf_token" in variables:
        raise WrongArgument(
            "context contains a request or its CSRF token: others receive the fragment, which must not show the sender's"
        )
    return variables


def _found(template: TemplateName) -> Any:  # noqa: ANN401 - a template of any engine
    if isinstance(template, str):
        return get_template(template)
    return template if hasattr(template, "render") else select_template(template)


def _rendered(
    template: TemplateName,
    context: Mapping[str, Any] | None,
    wrap: Callable[[str], str] | None,
    event: str | None,
) -> str:
    html = str(_found(template).render(_checked(context))).strip()
    if wrap is not None:
        html = wrap(html)
        if event is not None and html.startswith("event: "):
            raise WrongArgument(f"wrap names an event of its own; omit event={event!r}")
    elif event is None and html.startswith("event: "):
        # Text of a visitor must not name the event.
        html = f"\n{html}"
    return html if event is None else _event(event, html)


def _event(name: str, data: object) -> str:
    if not isinstance(name, str) or not _EVENT_NAME.fullmatch(name):
        raise WrongArgument(
            f"the name of an event must be 1 to 64 ASCII letters, digits, -, _, . and :, not {name!r}"
        )
    if name in RESERVED_EVENTS:
        raise WrongArgument(f"the event {name!r} is one of the gateway's own")
    text = data if isinstance(data, str) else encode_json(data).decode()
    return f"event: {name}\n{text}"
