"""Publication of templates and named events."""

import asyncio
from uuid import UUID

import pytest
from django.db import transaction
from django.template import TemplateDoesNotExist, engines
from django.test import RequestFactory, override_settings
from stores import commands

from ws4redis.html import (
    RESERVED_EVENTS,
    apublish_event,
    apublish_html,
    datastar,
    oob,
    publish_event,
    publish_event_on_commit,
    publish_html,
    publish_html_on_commit,
    turbo_stream,
)
from ws4redis.redis_store import SELF
from ws4redis.testing import capture_publications

TEMPLATES = {
    "badge.html": '\n<b id="badge">{{ count }}</b>\n',
    "bare.html": "{{ text }}",
    "rows.html": "<tr>\n<td>{{ text }}</td>\r\n</tr>",
    "who.html": "[{{ user }}{{ request }}{{ csrf_token }}]",
}


@pytest.fixture(autouse=True)
def _templates():
    loader = ("django.template.loaders.locmem.Loader", TEMPLATES)
    processors = ["django.template.context_processors.request", "django.contrib.auth.context_processors.auth"]
    engine = {
        "BACKEND": "django.template.backends.django.DjangoTemplates",
        "OPTIONS": {"loaders": [loader], "context_processors": processors},
    }
    with override_settings(TEMPLATES=[engine]):
        yield


def published(function, *arguments, **named):
    """Returns the texts that a call publishes."""
    with capture_publications() as seen:
        function(*arguments, **named)
    return [one.message.decode() for one in seen]


def test_a_template_is_rendered_and_published_with_its_time_to_live(store):
    with commands(store) as seen:
        publish_html("items", "badge.html", {"count": "<1>"}, expire=9, broadcast=True, users=["mary"])
    html = '<b id="badge">&lt;1&gt;</b>'
    assert seen == [
        ["SETEX", "broadcast:items", "9", html],
        ["PUBLISH", "broadcast:items", html],
        ["SETEX", "user:mary:items", "9", html],
        ["PUBLISH", "user:mary:items", html],
    ]


def test_a_loaded_template_and_a_choice_of_names_are_accepted():
    loaded = engines["django"].from_string("<i>{{ count }}</i>")
    assert published(publish_html, "x", loaded, {"count": 2}, broadcast=True) == ["<i>2</i>"]
    names = ["missing.html", "badge.html"]
    assert published(publish_html, "x", names, {"count": 2}, broadcast=True) == ['<b id="badge">2</b>']
    with pytest.raises(TemplateDoesNotExist):
        publish_html("x", "missing.html", broadcast=True)


def test_the_senders_request_is_only_for_self(people):
    request = RequestFactory().get("/")
    request.user = people["john"]
    with capture_publications() as seen:
        publish_html("x", "who.html", users=[SELF], request=request)
    assert [(one.channel, one.message.decode()) for one in seen] == [("user:john:x", "[]")]
    for name in ("request", "csrf_token"):
        with pytest.raises(ValueError, match="sender"):
            publish_html("x", "who.html", {name: request}, broadcast=True)


def test_a_visitors_text_names_no_event():
    text = "event: datastar-execute-script\nscript alert(1)"
    assert published(publish_html, "x", "bare.html", {"text": text}, broadcast=True) == [f"\n{text}"]
    named = published(publish_html, "x", "bare.html", {"text": "event: y"}, event="one", broadcast=True)
    assert named == ["event: one\nevent: y"]


def test_an_event_has_its_name_in_the_first_line():
    assert published(publish_event, "x", "tick", "a\nb", broadcast=True) == ["event: tick\na\nb"]
    data = {"id": UUID(int=1), "text": "é"}
    json = '{"id":"00000000-0000-0000-0000-000000000001","text":"é"}'
    assert published(publish_event, "x", "a:b.c-d_E9", data, broadcast=True) == [f"event: a:b.c-d_E9\n{json}"]
    assert published(publish_event, "x", "tick", broadcast=True) == ["event: tick\n"]


@pytest.mark.parametrize("name", ["", "a b", "a\nb", "é", "a" * 65, 1, None, *sorted(RESERVED_EVENTS)])
def test_an_invalid_name_of_an_event_is_refused(name):
    with pytest.raises(TypeError, match="event"):
        publish_event("x", name, broadcast=True)


@pytest.mark.parametrize("data", [object(), float("nan")])
def test_data_without_a_json_form_is_refused(data):
    with pytest.raises(TypeError, match="JSON"):
        publish_event("x", "tick", data, broadcast=True)


def test_a_wrapper_of_htmx_swaps_out_of_band():
    texts = published(
        publish_html, "x", "rows.html", {"text": "1"}, wrap=oob("beforeend:#list", "tbody"), broadcast=True
    )
    assert texts == ['<tbody hx-swap-oob="beforeend:#list"><tr>\n<td>1</td>\r\n</tr></tbody>']
    assert oob('delete:[name="a"]')() == '<div hx-swap-oob="delete:[name=&quot;a&quot;]"></div>'
    for tag in ("", "a b", "<p>", None):
        with pytest.raises(ValueError, match="tag"):
            oob("true", tag)


def test_a_wrapper_of_turbo_makes_a_stream_action():
    append = turbo_stream("append", "list")
    assert (
        append("<b>") == '<turbo-stream action="append" target="list"><template><b></template></turbo-stream>'
    )
    assert turbo_stream("remove", targets=".a > b")() == (
        '<turbo-stream action="remove" targets=".a &gt; b"></turbo-stream>'
    )
    assert turbo_stream("refresh")() == '<turbo-stream action="refresh"></turbo-stream>'
    with pytest.raises(ValueError, match="targets='#list'"):
        turbo_stream("append", "#list")
    with pytest.raises(ValueError, match="exclude"):
        turbo_stream("append", "list", targets="#list")


def test_a_wrapper_of_datastar_makes_its_event():
    texts = published(
        publish_html, "x", "rows.html", {"text": "1"}, wrap=datastar("#list", "append"), broadcast=True
    )
    assert texts == [
        "event: datastar-patch-elements\nmode append\nselector #list\n"
        "elements <tr>\nelements <td>1</td>\nelements </tr>"
    ]
    assert datastar()("<p id=a>") == "event: datastar-patch-elements\nelements <p id=a>"
    assert datastar("#a", "remove")() == "event: datastar-patch-elements\nmode remove\nselector #a"
    with pytest.raises(ValueError, match="line breaks"):
        datastar("#a\nelements <script>")
    with pytest.raises(ValueError, match="omit event"):
        publish_html("x", "rows.html", wrap=datastar("#a"), event="tick", broadcast=True)


def test_async_views_publish_the_same(store):
    async def view():
        await apublish_html("x", "badge.html", {"count": 1}, event="one", expire=0, broadcast=True)
        await apublish_event("x", "two", [1], expire=0, broadcast=True)

    with commands(store) as seen:
        asyncio.run(view())
    assert seen == [
        ["PUBLISH", "broadcast:x", 'event: one\n<b id="badge">1</b>'],
        ["PUBLISH", "broadcast:x", "event: two\n[1]"],
    ]


def test_a_rollback_publishes_neither_html_nor_events(people):
    def publish_both():
        publish_html_on_commit(
            "x", "badge.html", {"count": 1}, wrap=turbo_stream("update", "a"), broadcast=True
        )
        publish_event_on_commit("x", "tick", 1, broadcast=True)

    with capture_publications() as seen:
        with pytest.raises(ZeroDivisionError), transaction.atomic():
            publish_both()
            _ = 1 / 0
        assert list(seen) == []
        with transaction.atomic():
            publish_both()
            assert list(seen) == []
    assert [one.message.decode() for one in seen] == [
        '<turbo-stream action="update" target="a"><template><b id="badge">1</b></template></turbo-stream>',
        "event: tick\n1",
    ]


def test_html_is_rendered_at_the_commit(people):
    text = ["before"]
    with capture_publications() as seen, transaction.atomic():
        publish_html_on_commit("x", "bare.html", {"text": lambda: text[0]}, broadcast=True)
        text[0] = "at the commit"
    assert [one.message.decode() for one in seen] == ["at the commit"]


def test_mistakes_before_a_commit_are_reported_at_once(people):
    with transaction.atomic():
        with pytest.raises(TemplateDoesNotExist):
            publish_html_on_commit("x", "missing.html", broadcast=True)
        with pytest.raises(ValueError, match="event"):
            publish_html_on_commit("x", "bare.html", event="close", broadcast=True)
        with pytest.raises(ValueError, match="CSRF"):
            publish_html_on_commit("x", "bare.html", {"request": 1}, broadcast=True)
        with pytest.raises(ValueError, match="event"):
            publish_event_on_commit("x", "close", broadcast=True)
