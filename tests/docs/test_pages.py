"""The scripts of the documents, in Chromium, on the gateway's origin."""

import json
import subprocess

import pytest
from documents import ROOT, shows
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


@shows(JAVASCRIPT, "One socket for a page")
def test_one_socket_for_a_page(blocks, visit, gateway, store, john, tmp_path):
    settings = tmp_path / "settings.toml"
    settings.write_text(PAGE_SETTINGS)
    here = gateway(file=settings)
    names = json.dumps({"imports": {"ws4redis": "/static/ws4redis.mjs"}})
    script = f"<script type=importmap>{names}</script><script type=module>{blocks[0].code}\nwindow.chat = chat;</script>"
    page = visit(here, f"<!doctype html>{script}", [("sessionid", john.session)])
    until(lambda: page.run("return window.chat?.users"), ["john"], "the users")
    store.client.publish("broadcast:chat-5", "to all")
    page.expect("to all")
    assert store.client.xlen("ws4redis:history:broadcast:chat-5") == 1


PAGE_SETTINGS = """
[[access]]
facility = ["ready"]
anonymous = ["subscribe-broadcast"]

[[access]]
facility = ["chat-*"]
users = ["subscribe-broadcast", "publish-broadcast", "presence"]

[[history]]
facility = ["chat-*"]

[[presence]]
facility = ["chat-*"]
"""


FRAMEWORKS = {
    "React": """
import { createElement } from 'react';
import { createRoot } from 'react-dom/client';
import { useMessages } from './messages';
const item = ({ text }) => createElement('li', { key: text }, text);
const List = () => createElement('ul', null, useMessages('foobar').map(item));
createRoot(document.querySelector('main')).render(createElement(List));
""",
    "Vue": """
import { createApp, h } from 'vue';
import { useMessages } from './messages';
const setup = () => {
  const messages = useMessages('foobar');
  return () => h('ul', messages.value.map(({ text }) => h('li', text)));
};
createApp({ setup }).mount('main');
""",
}
"""The rest of an application, for the module with the block."""


@shows(JAVASCRIPT, "React")
def test_the_hook_for_react(blocks, visit, gateway, store, tmp_path):
    show_messages("React", blocks[0].code, visit, gateway, store, tmp_path)


@shows(JAVASCRIPT, "Vue")
def test_the_composable_for_vue(blocks, visit, gateway, store, tmp_path):
    show_messages("Vue", blocks[0].code, visit, gateway, store, tmp_path)


def show_messages(framework, code, visit, gateway, store, folder):
    """Bundle an application with the block, and publish to its page."""
    (folder / "messages.jsx").write_text(code)
    (folder / "main.js").write_text(FRAMEWORKS[framework])
    (folder / "node_modules").symlink_to(ROOT / "tests/docs/node_modules")
    alias = f"--alias:ws4redis={ROOT / 'static/ws4redis.mjs'}"
    bundler = folder / "node_modules/esbuild/bin/esbuild"
    command = [bundler, "main.js", "--bundle", "--format=esm", "--define:process.env.NODE_ENV='production'", alias]
    bundle = subprocess.run(command, cwd=folder, check=True, capture_output=True, text=True, timeout=60).stdout
    html = '<!doctype html><main></main><script type="module" src="/app.js"></script>'
    page = visit(gateway(), html, **{"/app.js": ("text/javascript", bundle)})
    connected(store, "broadcast:foobar")
    for text in ("one", "two"):
        store.client.publish("broadcast:foobar", json.dumps({"text": text}))
    shown = "return [...document.querySelectorAll('li')].map((item) => item.textContent)"
    until(lambda: page.run(shown), ["one", "two"], "the list")


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
