"""The scripts of the documents, in Chromium, on the gateway's origin."""

import json

import pytest
from documents import shows
from harness import unique, until

JAVASCRIPT = "docs/javascript.md"
PAGE = '<!doctype html><script src="/static/ws4redis.js"></script>'
pytestmark = pytest.mark.xdist_group("pages")


def connected(store, channel):
    until(lambda: store.client.pubsub_numsub(channel)[0][1], 1, f"{channel} in Redis")


@shows(JAVASCRIPT, "The modern API")
def test_the_modern_api(blocks, visit, gateway, store, john):
    cookies = [("sessionid", john.session)]
    page = visit(gateway(), f"{PAGE}<body><script>{blocks[0].code}</script>", cookies)
    until(lambda: page.run("return document.body.dataset.state"), "open", "the state")
    store.client.publish("broadcast:foobar", "to all")
    page.expect("to all")
    page.run("await socket.send('from John')")
    page.expect("from John")
    assert store.client.get("user:john:foobar") == b"from John"


@shows(JAVASCRIPT, "Sending")
def test_sending(blocks, visit, gateway):
    here = gateway()
    page = visit(here, PAGE + "<script>const socket = WS4Redis.connect('/ws/foobar', { publish: 'broadcast' });</script>")
    until(lambda: page.run("return socket.state"), "open", "the state")
    with here.connect("foobar") as listener:
        page.run(blocks[0].code)
        listener.expect("Hello", '{"unread":3}')


@shows(JAVASCRIPT, "Loops and JSON")
def test_loops(blocks, visit, gateway, store):
    here = gateway()
    loops = blocks[0].code.splitlines()
    assert len(loops) == 2
    for number, loop in enumerate(loops):
        facility = unique()
        script = f"const socket = WS4Redis.connect('/ws/{facility}', {{ subscribe: 'broadcast' }});\n"
        script += f"const badge = document.querySelector('b');\n(async () => {{ {loop}\nconsole.log('the end'); }})();"
        page = visit(here, f"<b></b>{PAGE}<script>{script}</script>")
        connected(store, f"broadcast:{facility}")
        store.client.publish(f"broadcast:{facility}", '{"unread": 3}')
        if number == 0:
            page.expect('{"unread": 3}')
        else:
            until(lambda page=page: page.run("return badge.textContent"), "3", "the badge")
        page.run("socket.close()")
        page.expect("the end")


@shows(JAVASCRIPT, "Tokens")
def test_tokens(blocks, visit, gateway, store, john, token_key):
    here = gateway(auth__jwt__algorithm="HS256", auth__jwt__key_file=token_key)
    script = f"const socket = {blocks[0].code}\nsocket.addEventListener('message', ({{ data }}) => console.log(data));"
    page = visit(here, f"{PAGE}<script>{script}</script>", **{"/token": ("text/plain", john.token)})
    connected(store, "user:john:foobar")
    store.client.publish("user:john:foobar", "to John")
    page.expect("to John")
    assert page.run("return socket.transport") == "websocket"


@shows("static/README.md", "ws4redis, in the browser")
def test_the_module(blocks, visit, gateway, store):
    here = gateway()
    # Replaces a bundler.
    names = json.dumps({"imports": {"ws4redis": "/static/ws4redis.mjs"}})
    page = f'<!doctype html><script type="importmap">{names}</script><script type="module">{blocks[0].code}</script>'
    with here.connect("foobar") as listener:
        page = visit(here, page)
        listener.expect("Hello")
        store.client.publish("broadcast:foobar", "to all")
        page.expect("to all")
