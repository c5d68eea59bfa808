// Front-end libraries and pages of other origins in a real browser, against a running gateway that allows the origin
// 127.0.0.1 on every port and only a few connections:
//
//   node tests/browser/front_ends.mjs http://127.0.0.1:8000
//
// CHROMIUM    the browser, as chromium.mjs says
// REDIS_CLI   the redis-cli command of the gateway's Redis
//
// The last line is `N passed, N failed`.
import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { createServer } from 'node:http';
import { becomes, check, sh, unique, within, withChromium } from './chromium.mjs';
import { received, open, send } from './sockets.mjs';

const WHOLE_RUN_MS = 120_000;
const origin = new URL(process.argv[2]).origin;
const redis = (...args) => sh(`${process.env.REDIS_CLI} "$@"`, ...args);
const publish = (channel, text) => redis('PUBLISH', channel, text);

const read = (path) => readFileSync(new URL(path, import.meta.url));
const SCRIPTS = {
  '/ws4redis.js': '../../static/ws4redis.js',
  '/htmx.js': 'node_modules/htmx.org/dist/htmx.min.js',
  '/sse.js': 'node_modules/htmx-ext-sse/sse.js',
  '/turbo.js': 'node_modules/@hotwired/turbo/dist/turbo.es2017-umd.js',
  '/datastar.js': 'node_modules/@starfederation/datastar/dist/datastar.js',
};
const PAGES = { '/': '<script src="/ws4redis.js"></script>' };

/** Serves the pages on an origin other than the gateway's. */
async function pageServer() {
  const server = createServer(({ url }, response) => {
    const path = url.split('?')[0];
    const type = path in SCRIPTS ? 'text/javascript' : 'text/html';
    if (!(path in SCRIPTS) && !(path in PAGES)) return response.writeHead(404).end();
    response.writeHead(200, { 'Content-Type': `${type}; charset=utf-8` });
    response.end(path in SCRIPTS ? read(SCRIPTS[path]) : `<!doctype html><link rel="icon" href="data:,">${PAGES[path]}`);
  });
  await new Promise((resolve) => server.listen(0, resolve));
  return server;
}

/** Takes all of the gateway's connections; returns a function that releases them. */
async function takeAllConnections() {
  const ending = new AbortController();
  const take = () =>
    fetch(`${origin}/ws/x?client=ws4redis`, { headers: { Accept: 'text/event-stream' }, signal: ending.signal });
  // The browser holds idle connections until server.keepalive_seconds have passed.
  for (const end = Date.now() + 3000; Date.now() < end; ) {
    const { status } = await take();
    if (status === 503) await new Promise((resolve) => setTimeout(resolve, 50));
  }
  assert.equal((await take()).status, 503, 'the gateway has no limit of connections');
  return () => ending.abort();
}

await withChromium(WHOLE_RUN_MS, { permissions: ['local-network-access'] }, async (browser) => {
  const server = await pageServer();
  const { port } = server.address();
  const allowed = `http://127.0.0.1:${port}`;
  const foreign = `http://localhost:${port}`;
  const key = unique('session').replace(/[^a-z0-9]/g, '').padStart(32, '0');
  const session = { _auth_user_id: '7', _auth_user_hash: 'h', 'ws4redis:username': 'john', 'ws4redis:memberof': [] };
  await redis('SET', `:1:django.contrib.sessions.cache${key}`, JSON.stringify(session), 'EX', '1000');
  // Cookies ignore the port, so pages of both ports send it to the gateway.
  await browser.addCookies([{ name: 'sessionid', value: key, domain: '127.0.0.1', path: '/' }]);
  const tabAt = async (url) => {
    const tab = await browser.newPage();
    await tab.goto(url);
    return tab;
  };
  const listen = (tab, path) =>
    tab.evaluate((url) => {
      window.messages = [];
      window.source = new EventSource(url, { withCredentials: true });
      window.source.onmessage = ({ data }) => window.messages.push(data);
    }, origin + path);
  const messages = (tab) => () => tab.evaluate(() => window.messages);
  const state = (tab) => () => tab.evaluate(() => window.source.readyState);
  const post = (tab, path, body) =>
    tab.evaluate(
      ([url, body]) =>
        fetch(url, { method: 'POST', headers: { 'X-WS4Redis': '1' }, credentials: 'include', body }).then(
          ({ status }) => status,
          (error) => error.name,
        ),
      [origin + path, body],
    );

  await check('a page of an allowed origin reads a stream and posts, with its session', async () => {
    const [tab, facility] = [await tabAt(`${allowed}/`), unique('across')];
    await listen(tab, `/ws/${facility}?subscribe-user`);
    await becomes(state(tab), 1, 'state of the stream');
    await publish(`user:john:${facility}`, 'to john');
    await becomes(messages(tab), ['to john'], 'messages');
    assert.equal(await post(tab, `/ws/${facility}?publish-user`, 'from john'), 204);
    await becomes(messages(tab), ['to john', 'from john'], 'messages');
    // CORS lets the page read a refusal, too.
    assert.equal(await post(tab, `/ws/${facility}?subscribe-user`, 'to nobody'), 403);
    await tab.close();
  });

  await check('the fallback of the client works across origins, with binary messages', async () => {
    const [tab, facility] = [await tabAt(`${allowed}/`), unique('fallback')];
    await tab.evaluate(() => {
      // Acts like a proxy that blocks WebSockets.
      window.WebSocket = class {
        constructor() {
          setTimeout(() => this.onclose({ code: 1006, reason: '', wasClean: false }));
        }
        close() {}
      };
    });
    await open(tab, 'a', `${origin}/ws/${facility}`, { subscribe: 'user', publish: 'user', echo: true });
    assert.equal(await tab.evaluate(() => window.a.transport), 'sse');
    await send(tab, 'a', 'text');
    await tab.evaluate(() => window.a.send(new Uint8Array([0, 255])));
    await becomes(received(tab, 'a'), ['text', [0, 255]], 'messages');
    await tab.evaluate(() => window.a.close());
    await tab.close();
  });

  await check('a page of another origin reads nothing and posts nothing', async () => {
    const [tab, facility] = [await tabAt(`${foreign}/`), unique('foreign')];
    await listen(tab, `/ws/${facility}?subscribe-broadcast`);
    await becomes(state(tab), 2, 'state of the stream');
    assert.equal(await post(tab, `/ws/${facility}?publish-broadcast`, 'x'), 'TypeError');
    const { stdout } = await redis('EXISTS', `broadcast:${facility}`);
    assert.equal(stdout.trim(), '0');
    await tab.close();
  });

  await check('an EventSource reconnects after the connection limit refused it', async () => {
    const [tab, facility] = [await tabAt(`${allowed}/`), unique('full')];
    const release = await takeAllConnections();
    await listen(tab, `/ws/${facility}?subscribe-broadcast`);
    await tab.evaluate(() => new Promise((resolve) => window.source.addEventListener('error', resolve, { once: true })));
    assert.equal(await state(tab)(), 0, 'the EventSource keeps retrying');
    release();
    await becomes(state(tab), 1, 'state of the stream', 20_000);
    await publish(`broadcast:${facility}`, 'back again');
    await becomes(messages(tab), ['back again'], 'messages');
    await tab.close();
  });

  await check('htmx swaps several parts of a page by the event names of one stream', async () => {
    const facility = unique('htmx');
    PAGES['/htmx'] = `<script src="/htmx.js"></script><script src="/sse.js"></script>
      <body hx-ext="sse" sse-connect="${origin}/ws/${facility}?subscribe-broadcast&amp;event-names">
      <p id="one" sse-swap="one"></p><p id="two" sse-swap="two"></p><p id="any" sse-swap="message"></p>`;
    const tab = await tabAt(`${allowed}/htmx`);
    const parts = () => tab.evaluate(() => ['one', 'two', 'any'].map((id) => document.getElementById(id).innerHTML));
    await subscribed(facility);
    await publish(`broadcast:${facility}`, 'event: one\n<b>1</b>');
    await publish(`broadcast:${facility}`, 'event: two\n<i>2</i>');
    await publish(`broadcast:${facility}`, '<u>3</u>');
    await becomes(parts, ['<b>1</b>', '<i>2</i>', '<u>3</u>'], 'parts of the page');
    await tab.close();
  });

  await check('Turbo applies stream actions, and its source reconnects', async () => {
    const facility = unique('turbo');
    PAGES['/turbo'] = `<script src="/turbo.js"></script><ul id="list"></ul>
      <turbo-stream-source src="${origin}/ws/${facility}?subscribe-broadcast"></turbo-stream-source>`;
    const release = await takeAllConnections();
    const tab = await tabAt(`${allowed}/turbo`);
    await becomes(() => tab.evaluate(() => document.querySelector('turbo-stream-source').streamSource.readyState), 0, 'state');
    release();
    await subscribed(facility, 20_000);
    const append = (n) => `<turbo-stream action="append" target="list"><template><li>${n}</li></template></turbo-stream>`;
    await publish(`broadcast:${facility}`, append(1));
    await publish(`broadcast:${facility}`, append(2));
    await becomes(() => tab.locator('#list li').allTextContents(), ['1', '2'], 'the list');
    await tab.close();
  });

  await check('Datastar receives its events from a stream with event names', async () => {
    const facility = unique('datastar');
    PAGES['/datastar'] = `<script type="module" src="/datastar.js"></script><p id="one">none</p>
      <div data-on-load="@get('/ws/${facility}?subscribe-broadcast&amp;event-names')"></div>`;
    // Datastar sends a custom header, which needs the same origin.
    await browser.route(`${origin}/datastar*`, (route) => {
      const { pathname } = new URL(route.request().url());
      const script = SCRIPTS[pathname];
      return route.fulfill({
        contentType: script ? 'text/javascript' : 'text/html',
        body: script ? read(script).toString() : PAGES[pathname],
      });
    });
    const tab = await tabAt(`${origin}/datastar`);
    await subscribed(facility);
    await publish(`broadcast:${facility}`, 'event: datastar-merge-fragments\nfragments <p id="one"><b>1</b></p>');
    await becomes(() => tab.locator('#one').innerHTML(), '<b>1</b>', 'the fragment');
    await tab.close();
  });

  server.closeAllConnections();
  await within(new Promise((resolve) => server.close(resolve)), 'the end of the pages');
});

/** Waits until the gateway has subscribed to a facility. */
async function subscribed(facility, deadline) {
  const count = async () => (await redis('PUBSUB', 'NUMSUB', `broadcast:${facility}`)).stdout.trim().split(/\s+/).at(-1);
  await becomes(count, '1', `a subscription of ${facility}`, deadline);
}
