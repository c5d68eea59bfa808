"""The Django code of the documents, in a new project with a gateway."""

import json
import re
import sys

import pytest
import redis
from documents import find, shows
from harness import Process, clean_environment, unique, until

DJANGO = "docs/django.md"
NEW_SITE = "A new site in five minutes"
SECRET = "a-secret-of-the-tests-of-the-documents"
# The site's own function, which the document only names.
OF_TOKEN = """
from django.contrib.auth.models import User

def user_of_token(header):
    return User.objects.filter(username=header).first()
"""


def ours(project):
    """Adds the package's settings to the project."""
    project.settings(find(DJANGO, NEW_SITE, 2).code)
    return project


def receives(gateway, store, session, channel="user:john", **options):
    """Publishes to the channel; tests whether a visitor with this session receives it."""
    facility = unique()
    headers = options | ({"Cookie": f"sessionid={session}"} if session else {})
    with gateway.connect(facility, "subscribe-user&subscribe-broadcast", additional_headers=headers) as client:
        receivers = store.client.publish(f"{channel}:{facility}", "to one")
        store.client.publish(f"broadcast:{facility}", "to all")
        if receivers:
            client.expect("to one")
        client.expect("to all")
    return receivers == 1


@shows("python/README.md", "ws4redis for Django", 1)
def test_the_publisher(blocks, project, gateway, store):
    ours(project)
    here = gateway()
    session = project.session()
    with here.connect("foobar", "subscribe-user", additional_headers={"Cookie": f"sessionid={session}"}) as client:
        project.shell(blocks[0].code)
        client.expect("Hello")


@shows("README.md", "From Django", 1, 2)
@pytest.mark.xdist_group("pages")
def test_a_view_publishes_to_a_page(blocks, project, gateway, store, visit):
    view, page = blocks
    ours(project)
    project.module("views", view.code)
    project.urls("from mysite.views import say_hello\nurlpatterns += [path('hello/', say_hello)]\n")
    session = project.session()
    visitor = visit(gateway(), lambda host: project.render(page.code, host), [("sessionid", session)])
    until(lambda: store.client.pubsub_numsub("user:john:foobar"), [(b"user:john:foobar", 1)], "the page")
    ((status, _),) = project.get(("/hello/", None, {}))
    assert status == 204
    visitor.expect("Hello")
    store.client.publish("user:john:foobar", "to John")
    visitor.expect("to John")
    assert visitor.run("return socket.transport") == "websocket"


CHAT_LOG = """
{% load static %}{{ room_name|json_script:"room-name" }}
<textarea id="chat-log"></textarea><input id="chat-message-input"><input id="chat-message-submit" type="button">
"""
LAYER = """
# The harness waits for this facility.
WS4REDIS_GATEWAY["access"].append({"facility": ["ready"], "anonymous": ["subscribe-broadcast"]})
CHANNEL_LAYERS = {
    "default": {
        "BACKEND": "channels_redis.pubsub.RedisPubSubChannelLayer",
        "CONFIG": {"hosts": ["redis://localhost:6379/0"], "serializer_format": "json"},
    }
}
"""


@shows("docs/channels.md", "The chat of Channels' own tutorial", 1, 2)
@pytest.mark.xdist_group("pages")
def test_the_chat_of_channels_own_tutorial(blocks, project, gateway, store, visit, tmp_path):
    page, rule = blocks
    ours(project).settings(rule.code)
    project.settings(LAYER)
    file = tmp_path / "settings.toml"
    project.command(f"python manage.py ws4redis_settings --output {file}")
    here = gateway(file=file)
    template = CHAT_LOG.replace("room_name|", "'lobby'|") + page.code
    first, second = (visit(here, lambda host: project.render(template, host)) for _ in range(2))
    until(lambda: store.client.pubsub_numsub("broadcast:chat_lobby"), [(b"broadcast:chat_lobby", 1)], "the pages")
    text = "return document.querySelector('#chat-log').value"
    for one, said in ((first, "one"), (second, "two")):
        until(lambda page=one: page.run("return chatSocket.state"), "open", "the connection")
        one.run(
            f"document.querySelector('#chat-message-input').value = '{said}';"
            "document.querySelector('#chat-message-submit').click()"
        )
        for page in (first, second):
            until(lambda page=page, said=said: page.run(text).endswith(f"{said}\n"), True, "the message")
    event = {"type": "chat.message", "message": "three"}
    project.shell(f"from ws4redis.channels import group_send\ngroup_send('chat_lobby', {event})")
    for page in (first, second):
        until(lambda page=page: page.run(text), "one\ntwo\nthree\n", "the event of the group")


@shows("docs/javascript.md", "The legacy API")
@pytest.mark.xdist_group("pages")
def test_the_legacy_api(blocks, project, gateway, store, visit):
    ours(project)
    template = f'<script src="/static/ws4redis.js"></script><script>{blocks[0].code}</script>'
    visitor = visit(gateway(), lambda host: project.render(template, host))
    until(lambda: visitor.run("return ws.is_connected()"), True, "the connection")
    visitor.run("ws.send_message('I am here')")
    visitor.expect("I am here")


@shows(DJANGO, "Logins, logouts and changes of users")
def test_users_are_refreshed(blocks, project, store):
    ours(project)
    one, every = blocks[0].code.splitlines()
    keys = [
        f"ws4redis:identity:{pk}"
        for pk in project.shell(
            "from django.contrib.auth.models import User\n"
            "answer = [user.pk for name in ('john', 'mary') for user in User.objects.filter(username=name)]"
        )
    ]
    store.client.flushall()
    project.command(one)
    assert sorted(key.decode() for key in store.client.keys("ws4redis:identity:*")) == sorted(keys)
    for key in keys:
        store.client.set(key, '{"v":1,"active":false}')
    project.command(every)
    assert all(b'"active":true' in store.client.get(key) for key in keys)


@shows(DJANGO, "React to clients", 1, 2, 3)
@shows(DJANGO, "Parked events")
def test_handlers_react_to_clients(blocks, project, gateway, store, tmp_path):
    toml, handlers, start, parked = blocks
    ours(project).settings('INSTALLED_APPS += ["mysite"]\n')
    project.module("ws4redis_handlers", handlers.code)
    file = tmp_path / "settings.toml"
    file.write_text(toml.code)
    here = gateway(file=file)
    environment = clean_environment(**project.environment)
    words = [sys.executable, *start.code.split()[1:]]
    worker = Process(words, env=environment, cwd=project.home)
    try:
        with here.connect("chat-5", "subscribe-broadcast&publish-broadcast") as client:
            client.send("/help")
            client.expect("There is no help yet.")
        store.client.xadd("ws4redis:events", {"data": json.dumps({"type": "message", "facility": 5})})
        until(lambda: store.client.xlen("ws4redis:events:failed"), 1, "the parked event")
        listed, queued = parked.code.splitlines()
        assert "facility has a wrong type" in project.command(listed)
        assert "1 events queued again" in project.command(queued)
        until(lambda: store.client.xlen("ws4redis:events:failed"), 1, "the same event")
    finally:
        assert worker.stop() == 0


@shows(DJANGO, "React to clients", 2)
@shows(DJANGO, "Testing handlers")
def test_handlers_are_tested(blocks, project):
    handlers, tests = blocks
    ours(project).settings('INSTALLED_APPS += ["mysite"]\n')
    project.module("ws4redis_handlers", handlers.code)
    project.module("tests", tests.code)
    project.command("python manage.py test mysite")


@shows(DJANGO, "Who is online", 1, 2)
def test_who_is_online(blocks, project, gateway, store, tmp_path):
    toml, calls = blocks
    ours(project)
    file = tmp_path / "settings.toml"
    file.write_text(toml.code)
    here = gateway(file=file)
    lines = [line.partition("#")[0].strip() for line in calls.code.splitlines() if line.startswith("presence.")]
    headers = {"Cookie": f"sessionid={project.session()}"}
    with (
        here.connect("chat-5", "subscribe-broadcast", additional_headers=headers),
        here.connect("chat-5", "subscribe-broadcast"),
    ):
        until(lambda: store.client.zcard("ws4redis:presence:chat-5"), 2, "both visitors")
        until(lambda: store.client.zcard("ws4redis:online"), 1, "John")
        (sid,) = store.client.zrange("ws4redis:online:john", 0, -1)
        asked = ", ".join(f"repr({line})" for line in lines)
        answer = project.shell(f"from ws4redis import presence\nanswer = [{asked}]")
    assert answer == ["True", "{'john'}", f"{{'{sid.decode()}'}}", "{'john'}", "2"]


@shows(DJANGO, "Keep a history", 1, 2, 3)
def test_a_history(blocks, project, gateway, tmp_path):
    toml, setting, view = blocks
    ours(project).settings(setting.code)
    project.module("views", view.code)
    file = tmp_path / "settings.toml"
    file.write_text(toml.code)
    here = gateway(file=file)
    with here.connect("chat-5", "subscribe-broadcast&publish-broadcast&echo") as client:
        project.shell(
            "from ws4redis.publisher import RedisPublisher\n"
            "answer = [RedisPublisher(facility='chat-5', broadcast=True).publish_message('from Django')]"
        )
        client.expect("from Django")
        client.send("from a browser")
        client.expect("from a browser")
    answer = project.shell("from mysite.views import last_messages\nanswer = [last_messages(None).content.decode()]")
    assert [one["text"] for one in json.loads(answer[0])] == ["from Django", "from a browser"]


ENGINES = ["Django's cache", "django-redis, without pickle", "django-redis-sessions"]


@pytest.mark.parametrize("engine", ENGINES)
@shows(DJANGO, "Session engines", 2)
def test_an_engine_of_sessions(blocks, project, gateway, store, engine):
    parts = re.split(r"(?m)^# (.*)\.\n", blocks[0].code)[1:]
    assert parts[::2] == ENGINES
    ours(project).settings("SECRET_KEY = 'of the tests of the documents'\n" + parts[2 * ENGINES.index(engine) + 1])
    here = gateway(session__secret_key="of the tests of the documents")
    session = project.session()
    assert receives(here, store, session)
    assert store.client.keys(f"*{session}"), "the session is in this Redis"
    assert not receives(here, store, session[::-1])


@shows(DJANGO, "Session engines", 1)
def test_the_gateways_settings_for_sessions(blocks, gateway, store, john, tmp_path):
    key = tmp_path / "secret_key"
    key.write_text("of the tests of the documents")
    words = {"localhost:6379": f"localhost:{store.port}", "/etc/ws4redis/secret_key": key}
    file = tmp_path / "settings.toml"
    file.write_text(blocks[0].filled(words))
    here = gateway(file=file)
    assert not receives(here, store, john.session), "the session is in another database"
    with redis.Redis(port=store.port, db=1) as other:
        cached = f":1:django.contrib.sessions.cache{john.session}"
        other.set(cached, store.client.get(cached))
        assert receives(here, store, john.session)
        other.flushdb()


@shows(DJANGO, "The callback", 1, 2, 3)
def test_the_callback(blocks, project, gateway, store, tmp_path):
    settings, urls, toml = blocks
    ours(project)
    project.environment["WS4REDIS_CALLBACK_SECRET"] = SECRET
    # A database that the gateway cannot read.
    project.settings(settings.code + "SESSION_ENGINE = 'django.contrib.sessions.backends.db'\n")
    project.urls(urls.code)
    secret, file = tmp_path / "secret", tmp_path / "settings.toml"
    secret.write_text(SECRET)
    site = project.serve()
    try:
        words = {"127.0.0.1:8001": f"127.0.0.1:{project.site_port}", "/etc/ws4redis/callback_secret": secret}
        file.write_text(toml.filled(words))
        here = gateway(file=file)
        assert receives(here, store, project.session())
        assert not receives(here, store, None)
    finally:
        site.stop()


@shows(DJANGO, "The callback", 4)
def test_a_callback_with_rules_of_its_own(blocks, project, gateway):
    ours(project)
    project.settings(f"WS4REDIS_CALLBACK_SECRET = {SECRET!r}\n")
    project.module("rules", OF_TOKEN + blocks[0].code)
    project.urls(
        "from mysite.rules import SiteIdentityView\nurlpatterns += [path('rules/', SiteIdentityView.as_view())]\n"
    )

    requests = [("staff/x", "john"), ("staff/x", "admin"), ("x", "john")]
    responses = project.get(
        *[
            (
                f"/rules/?facility={facility}&flag=subscribe-user",
                None,
                {"Authorization": name, "X-WS4Redis-Secret": SECRET},
            )
            for facility, name in requests
        ]
    )
    assert [status for status, _ in responses] == [200, 200, 200]
    answers = [json.loads(text) for _, text in responses]
    assert [answer["user"] for answer in answers] == ["john", "admin", "john"]
    # Without `allow` the gateway's own rules apply.
    assert [answer.get("allow") for answer in answers] == [[], None, None]


@shows("docs/deploy.md", "nginx", 6)
def test_the_view_of_auth_request(blocks, project):
    project.module("views", blocks[0].code)
    project.urls("from mysite.views import may_connect\nurlpatterns += [path('may-connect/', may_connect)]\n")
    responses = project.get(*[("/may-connect/", name, {}) for name in (None, "john", "admin")])
    assert [status for status, _ in responses] == [403, 403, 204]


@shows(DJANGO, "Tokens", 1, 2, 3)
@pytest.mark.xdist_group("pages")
def test_tokens(blocks, project, gateway, store, visit, token_key, tmp_path):
    view, toml, script = blocks
    project.settings(f"WEBSOCKET_TOKEN_KEY = {token_key.read_text()!r}\n")
    project.module("views", view.code)
    project.urls(
        "from mysite.views import websocket_token\nurlpatterns += [path('websocket-token/', websocket_token)]\n"
    )
    (stranger, _), (status, answer) = project.get(("/websocket-token/", None, {}), ("/websocket-token/", "john", {}))
    assert (stranger, status) == (302, 200), "anonymous visitors are redirected to the login"
    file = tmp_path / "settings.toml"
    file.write_text(toml.filled({"/etc/ws4redis/token_key": token_key}))
    here = gateway(file=file)
    visitor = visit(here, "<!doctype html>", **{"/websocket-token/": ("application/json", answer)})
    visitor.run(script.filled({"wss://ws.example.com": f"ws://{visitor.host}"}))
    until(lambda: store.client.pubsub_numsub("user:john:foobar"), [(b"user:john:foobar", 1)], "John with a token")
