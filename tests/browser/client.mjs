// Both APIs of the client in a real browser, against a running gateway whose heartbeat is HEARTBEAT:
//
//   HEARTBEAT=--heartbeat-- node tests/browser/client.mjs http://127.0.0.1:8000
//
// The driver serves the pages and the files of static/ on the gateway's own origin.
//
// CHROMIUM            the browser, as chromium.mjs says
// SERVER_KILL, SERVER_PAUSE, SERVER_START   shell commands that kill the gateway, stop its process until it is killed,
//                     and start it again on the same address (this one must return)
//
// The last line is `N passed, N failed`.
import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { blockingProxy } from './blocking_proxy.mjs';
import { becomes, check, DEADLINE_MS, sh, skip, unique, withChromium } from './chromium.mjs';
import { fakeGateway } from './fake_gateway.mjs';
import { received, open, send } from './sockets.mjs';

const WHOLE_RUN_MS = 90_000;
const { HEARTBEAT, SERVER_KILL, SERVER_PAUSE, SERVER_START } = process.env;
if (!process.argv[2] || !HEARTBEAT) {
  console.error('usage: HEARTBEAT=TEXT node client.mjs http://HOST:PORT');
  process.exit(64);
}
const origin = new URL(process.argv[2]).origin;
const socketOrigin = origin.replace('http', 'ws');

const read = (path) => readFileSync(new URL(path, import.meta.url), 'utf8');
const script = (path) => ({ type: 'text/javascript; charset=utf-8', text: read(path) });
const page = (text) => ({ type: 'text/html; charset=utf-8', text: `<!doctype html><meta charset="utf-8">${text}` });

/** A page in the style of django-websocket-redis. */
const oldPage = (scripts, make) =>
  page(`
<link rel="icon" href="data:,">
${scripts.map((name) => `<script type="text/javascript" src="/static/${name}"></script>`).join('\n')}
<input id="text"><div id="state"></div><ul id="messages"></ul>
<script type="text/javascript">
  var FACILITY = location.hash.slice(1);
  var URI = '${socketOrigin}/ws/' + FACILITY + '?subscribe-broadcast&publish-broadcast&echo';
  var HEARTBEAT = '${HEARTBEAT}';
  ${make}
</script>`);

const PAGES = {
  '/static/ws4redis.js': script('../../static/ws4redis.js'),
  '/static/ws4redis.mjs': script('../../static/ws4redis.mjs'),
  '/static/jquery.js': script('node_modules/jquery/dist/jquery.js'),
  '/modern': page('<link rel="icon" href="data:,"><script src="/static/ws4redis.js"></script>'),
  '/namespace': page(`<link rel="icon" href="data:,">
<script>window.ws4redis = window.ws4redis || { facilities: ['before'] };</script>
<script src="/static/ws4redis.js"></script>
<script>
  var ws4redis = ws4redis || { facilities: [] };
  if (ws4redis && !ws4redis.client) ws4redis.client = WS4Redis({ uri: '${socketOrigin}/ws/' + ws4redis.facilities[0] });
  ws4redis.modern = WS4Redis.connect('/ws/' + ws4redis.facilities[0]);
</script>`),
  '/old-jquery': oldPage(
    ['jquery.js', 'ws4redis.js'],
    `
  jQuery(document).ready(function ($) {
    var ws = new WS4Redis({
      uri: URI,
      connecting: function () { $('#state').text('connecting'); },
      connected: function () { $('#state').text('connected'); },
      disconnected: function (evt) { $('#state').text('disconnected ' + evt.code); },
      receive_message: function (msg) { $('<li>').text(msg).appendTo('#messages'); },
      heartbeat_msg: HEARTBEAT
    }, $);
    $('#text').keydown(function (event) {
      if (event.keyCode !== 13) return;
      event.preventDefault();
      ws.send_message($(this).val());
    });
  });`,
  ),
  '/old-plain': oldPage(
    ['ws4redis.js'],
    `
  var ws4redis = WS4Redis({
    uri: URI,
    connecting: function () { show('connecting'); },
    connected: function () { show('connected'); },
    disconnected: function (evt) { show('disconnected ' + evt.code); },
    receive_message: function (msg) {
      var item = document.createElement('li');
      item.textContent = msg;
      document.getElementById('messages').appendChild(item);
    },
    heartbeat_msg: HEARTBEAT
  });
  function show(state) { document.getElementById('state').textContent = state; }
  document.getElementById('text').onkeydown = function (event) {
    if (event.keyCode === 13) ws4redis.send_message(this.value);
  };`,
  ),
};

const messages = (tab) => tab.locator('#messages li').allTextContents();
const stateOf = (tab) => () => tab.locator('#state').textContent();

async function submit(tab, text) {
  await tab.locator('#text').fill(text);
  await tab.locator('#text').press('Enter');
}

// Chromium treats intercepted pages as remote ones, which need a permission to access this machine.
await withChromium(WHOLE_RUN_MS, { permissions: ['local-network-access'] }, async (browser) => {
  const pageErrors = [];
  let outage = false;
  await browser.route(
    (url) => url.origin === origin && url.pathname in PAGES,
    (route) => {
      const { type, text } = PAGES[new URL(route.request().url()).pathname];
      return route.fulfill({ contentType: type, body: text });
    },
  );
  // Intervals run twenty times as fast, and reconnect delays are short.
  await browser.addInitScript(() => {
    const set = window.setInterval;
    window.setInterval = (callback, ms) => set(callback, ms / 20);
    Math.random = () => 0.1;
  });
  browser.on('page', (tab) => {
    tab.setDefaultTimeout(DEADLINE_MS);
    tab.on('pageerror', (error) => pageErrors.push(`uncaught: ${error.message}`));
    tab.on('console', (message) => {
      if (['error', 'warning'].includes(message.type()) && !outage)
        pageErrors.push(`console ${message.type()}: ${message.text()}`);
    });
  });
  const tabAt = async (path) => {
    const tab = await browser.newPage();
    await tab.goto(origin + path);
    return tab;
  };
  const facility = unique('facility');
  const [jquery, plain, one, two] = await Promise.all(
    [`/old-jquery#${facility}`, `/old-plain#${facility}`, '/modern', '/modern'].map(tabAt),
  );

  await check('pages of the legacy API run unchanged, with jQuery and new, and without either', async () => {
    for (const tab of [jquery, plain]) await becomes(stateOf(tab), 'connected', 'state');
    const texts = [];
    for (const tab of [jquery, plain]) {
      texts.push(unique('old'));
      await submit(tab, texts.at(-1));
      for (const other of [jquery, plain]) await becomes(() => messages(other), texts, 'messages');
    }
  });

  await check('the modern API exchanges messages with the legacy one, with echo and without', async () => {
    await open(one, 'a', facility, { subscribe: ['broadcast'], publish: ['broadcast'], echo: true });
    await open(two, 'b', facility, { subscribe: 'broadcast', publish: 'broadcast' });
    // The replayed message arrives first.
    const before = (await messages(plain)).slice(-1);
    const [fromA, fromB, fromOld] = [unique('a'), unique('b'), unique('old')];
    await send(one, 'a', fromA);
    await becomes(received(one, 'a'), [...before, fromA], 'echo');
    await becomes(received(two, 'b'), [...before, fromA], 'from a');
    await send(two, 'b', fromB);
    await becomes(received(one, 'a'), [...before, fromA, fromB], 'from b');
    await submit(plain, fromOld);
    await becomes(received(two, 'b'), [...before, fromA, fromOld], 'messages of others, no echo');
    assert.deepEqual(await two.evaluate(() => [window.b.url, window.b.transport]), [
      `${socketOrigin}/ws/${facility}?subscribe-broadcast&publish-broadcast`,
      'websocket',
    ]);
  });

  await check('binary messages, JSON and both loops', async () => {
    const facility = unique('loops');
    await open(one, 'c', facility, { subscribe: 'broadcast', publish: 'broadcast', echo: true });
    const result = await one.evaluate(async () => {
      const texts = (async () => {
        const all = [];
        for await (const message of window.c) {
          all.push(message);
          if (all.length === 2) return all;
        }
      })();
      const values = window.c.json();
      const first = values.next();
      await window.c.sendJSON({ n: [1, null, 'ü'] });
      const { value } = await first;
      await window.c.sendJSON('end');
      return { texts: await texts, value };
    });
    assert.deepEqual(result, { texts: ['{"n":[1,null,"ü"]}', '"end"'], value: { n: [1, null, 'ü'] } });
    await one.evaluate(() => window.c.send(new Uint8Array([0, 255, 1])));
    await becomes(received(one, 'c'), [...result.texts, [0, 255, 1]], 'messages');
  });

  await check('an AbortSignal ends the connection and the loop', async () => {
    const facility = unique('abort');
    const [socket, text] = await Promise.all([
      one.waitForEvent('websocket'),
      one.evaluate(async (facility) => {
        const controller = new AbortController();
        const socket = WS4Redis.connect(`/ws/${facility}`, { signal: controller.signal });
        const ended = (async () => {
          for await (const message of socket) return message;
          return 'ended';
        })();
        await new Promise((resolve) => socket.addEventListener('open', resolve, { once: true }));
        controller.abort();
        return `${await ended} ${socket.state}`;
      }, facility),
    ]);
    assert.equal(text, 'ended closed');
    await becomes(() => socket.isClosed(), true, 'the WebSocket is closed');
  });

  await check('a token is offered together with a real subprotocol, which the gateway selects', async () => {
    const facility = unique('token');
    await one.evaluate((facility) => {
      window.d = WS4Redis.connect(`/ws/${facility}`, { token: async () => 'a.b.c' });
    }, facility);
    await becomes(() => one.evaluate(() => window.d.state), 'open', 'state');
    await one.evaluate(() => window.d.close());
  });

  await check('the module has the same APIs, and sets no global', async () => {
    const [same, untouched] = await one.evaluate(async () => {
      const { WS4Redis } = window;
      const module = await import('/static/ws4redis.mjs');
      window.modern = module.ws4redis('/ws/module');
      window.legacy = new module.WS4Redis({ uri: window.modern.url });
      const same = [module.default.connect === module.connect, module.ws4redis === module.WS4Redis.connect];
      return [same, [window.WS4Redis === WS4Redis, !('ws4redis' in window)]];
    });
    assert.deepEqual([same, untouched], [[true, true], [true, true]]);
    await becomes(() => one.evaluate(() => [window.modern.state, window.legacy.get_state()]), ['open', 1], 'states');
    await one.evaluate(() => [window.modern, window.legacy].forEach((socket) => socket.close()));
  });

  await check('a page may use ws4redis as its own namespace together with both APIs', async () => {
    const tab = await tabAt('/namespace');
    const all = () => tab.evaluate(({ facilities, client, modern } = window.ws4redis) => [...facilities, client.get_state(), modern.state]);
    await becomes(all, ['before', 1, 'open'], 'facility and states');
    await tab.close();
  });

  await check('an https: page that connects to ws: keeps running, and its close events have the reason', async () => {
    const secure = 'https://secure.example.test/';
    await browser.route(secure, (route) =>
      route.fulfill({
        contentType: 'text/html',
        body: `<!doctype html><link rel="icon" href="data:,"><script>${read('../../static/ws4redis.js')}</script>
<script>
  window.closes = [];
  const uri = 'ws://secure.example.test/ws/x';
  const old = new WS4Redis({ uri, disconnected: (event) => closes.push(['old', event.reason]) });
  const modern = WS4Redis.connect(uri);
  modern.addEventListener('close', ({ reason, final }) => closes.push(['modern', reason, final]));
  window.after = [old.is_closed(), modern.state];
</script>`,
      }),
    );
    outage = true;
    const tab = await browser.newPage();
    const uncaught = [];
    tab.removeAllListeners('pageerror');
    tab.on('pageerror', (error) => uncaught.push(error.message));
    await tab.goto(secure);
    await becomes(() => tab.evaluate(() => [window.after, window.closes.length]), [[true, 'connecting'], 2], 'the page');
    const closes = await tab.evaluate(() => window.closes);
    assert.deepEqual(closes.map(([api, , final]) => [api, final]), [['old', undefined], ['modern', true]]);
    for (const [, reason] of closes) assert.match(reason, /^SecurityError: /);
    assert.equal(uncaught.length, 1, 'the legacy API reports the error');
    await tab.close();
    outage = false;
  });

  await check('callbacks and listeners that throw do not end the connection', async () => {
    const facility = unique('bugs');
    const tab = await browser.newPage();
    const uncaught = [];
    tab.removeAllListeners('pageerror');
    tab.on('pageerror', (error) => uncaught.push(error.message));
    await tab.goto(`${origin}/modern`);
    await tab.evaluate(
      ([facility, uri]) => {
        const bug = (name) => () => {
          throw new Error(`bug in ${name}`);
        };
        const names = ['connecting', 'connected', 'receive_message', 'disconnected', 'reconnecting'];
        window.old = new WS4Redis({ uri, ...Object.fromEntries(names.map((name) => [name, bug(name)])) });
        window.modern = WS4Redis.connect(`/ws/${facility}`, { subscribe: 'broadcast', publish: 'broadcast', echo: true });
        window.received = [];
        for (const type of ['state', 'open', 'message']) window.modern.addEventListener(type, bug(type));
        window.modern.addEventListener('message', ({ data }) => window.received.push(data));
      },
      [facility, `${socketOrigin}/ws/${facility}?subscribe-broadcast`],
    );
    await becomes(() => tab.evaluate(() => [window.old.get_state(), window.modern.state]), [1, 'open'], 'states');
    await tab.evaluate(() => window.modern.send('Hello'));
    await becomes(() => tab.evaluate(() => window.received), ['Hello'], 'messages');
    const bugs = ['connected', 'connecting', 'message', 'open', 'receive_message', 'state'];
    await becomes(() => uncaught.map((message) => message.split(' ').at(-1)).sort(), bugs, 'the reported errors');
    await tab.close();
  });

  await check('heartbeats keep a connection alive, and are not delivered as messages', async () => {
    const facility = unique('heartbeat');
    const [socket] = await Promise.all([
      one.waitForEvent('websocket'),
      open(one, 'e', facility, { subscribe: 'broadcast', heartbeat: HEARTBEAT }),
    ]);
    let beats = 0;
    socket.on('framesent', ({ payload }) => (beats += payload === HEARTBEAT));
    await becomes(() => beats >= 5, true, 'five heartbeats');
    const now = await one.evaluate(() => [window.e.state, window.e.received, window.e.states]);
    assert.deepEqual(now, ['open', [], ['open', '+open']]);
  });

  await check('for a local gateway navigator.onLine is ignored', async () => {
    const facility = unique('offline');
    outage = true;
    await two.evaluate(() => {
      Object.defineProperty(navigator, 'onLine', { get: () => false, configurable: true });
      window.dispatchEvent(new Event('offline'));
    });
    await open(two, 'f', facility, { subscribe: 'broadcast', publish: 'broadcast', echo: true });
    await two.evaluate(() => {
      delete navigator.onLine;
      window.dispatchEvent(new Event('online'));
    });
    await send(two, 'f', 'still here');
    await becomes(received(two, 'f'), ['still here'], 'messages');
    assert.deepEqual(await two.evaluate(() => window.f.states), ['open', '+open']);
    await two.evaluate(() => window.f.close());
    outage = false;
  });

  if (SERVER_KILL && SERVER_PAUSE && SERVER_START) {
    await check('after a crash of the gateway both APIs reconnect, and messages flow', async () => {
      outage = true;
      await one.evaluate(() => (window.a.states.length = window.a.received.length = 0));
      await sh(SERVER_KILL);
      for (const tab of [jquery, plain]) await becomes(stateOf(tab), 'disconnected 1006', 'state');
      await becomes(() => one.evaluate(() => window.a.codes.slice(-1)), [1006], 'code');
      await sh(SERVER_START);
      for (const tab of [jquery, plain]) await becomes(stateOf(tab), 'connected', 'state', 20_000);
      for (const [tab, name] of [[one, 'a'], [two, 'b']])
        await becomes(() => tab.evaluate((name) => window[name].state, name), 'open', name, 20_000);
      const states = await one.evaluate(() => window.a.states);
      assert.deepEqual([states[0], ...states.slice(-3)], ['waiting', 'open', '+open', '+gap']);
      const text = unique('back');
      await submit(jquery, text);
      await becomes(received(one, 'a'), [text], 'messages');
      outage = false;
    });

    await check('missing heartbeats reveal a frozen gateway', async () => {
      await becomes(() => one.evaluate(() => window.e.state), 'open', 'state', 20_000);
      outage = true;
      await one.evaluate(() => (window.e.states.length = 0));
      await sh(SERVER_PAUSE);
      await becomes(() => one.evaluate(() => window.e.states[0]), 'waiting', 'state');
      await sh(SERVER_KILL);
      await sh(SERVER_START);
      await becomes(() => one.evaluate(() => window.e.states.slice(-2)), ['+open', '+gap'], 'states', 30_000);
      outage = false;
    });
  } else {
    skip('a crash and a restart of the gateway', 'SERVER_KILL, SERVER_PAUSE and SERVER_START are not set');
  }
  await Promise.all([jquery, plain, one, two].map((tab) => tab.close()));

  const proxy = await blockingProxy(origin, PAGES);
  try {
    outage = true;
    await check('behind a proxy that blocks WebSockets, messages pass over HTTP in both directions', async () => {
      const [blocked, free] = [await browser.newPage(), await tabAt('/modern')];
      await blocked.goto(`${proxy.origin}/modern`);
      const facility = unique('blocked');
      await open(free, 'i', facility, { subscribe: 'broadcast', publish: 'broadcast' });
      await send(free, 'i', 'kept');
      await open(blocked, 'h', facility, { subscribe: 'broadcast', publish: 'broadcast', echo: true });
      assert.equal(await blocked.evaluate(() => window.h.transport), 'sse');
      await becomes(received(blocked, 'h'), ['kept'], 'the replay');
      await send(blocked, 'h', 'Grüße\nzwei');
      await becomes(received(free, 'i'), ['Grüße\nzwei'], 'by POST');
      await send(free, 'i', 'back');
      await becomes(received(blocked, 'h'), ['kept', 'Grüße\nzwei', 'back'], 'by events');
      await Promise.all([blocked, free].map((tab) => tab.close()));
    });
    outage = false;
  } finally {
    await proxy.stop();
  }

  const fake = await fakeGateway(PAGES);
  try {
    outage = true;
    const tab = await browser.newPage();
    await tab.goto(`${fake.origin}/modern`);

    await check('where WebSockets are refused, messages arrive as server-sent events and leave by POST', async () => {
      await open(tab, 'g', 'x', { subscribe: 'broadcast', publish: 'broadcast' });
      assert.equal(await tab.evaluate(() => window.g.transport), 'sse');
      assert.deepEqual(fake.upgrades, ['/ws/x?subscribe-broadcast&publish-broadcast']);
      fake.write('data: Grüße\ndata: zwei\n\nevent: binary\ndata: AP8B\n\nevent: heartbeat\ndata: x\n\n');
      await becomes(received(tab, 'g'), ['Grüße\nzwei', [0, 255, 1]], 'messages');
      await send(tab, 'g', 'Hello');
      await tab.evaluate(() => window.g.send(new Uint8Array([0, 255])));
      const posts = fake.requests.filter(({ method }) => method === 'POST');
      assert.deepEqual(
        posts.map(({ headers, body }) => [headers['x-ws4redis'], headers['content-type'], [...body]]),
        [
          ['1', 'text/plain;charset=utf-8', [...Buffer.from('Hello')]],
          ['1', 'application/octet-stream', [0, 255]],
        ],
      );
      fake.postStatus = () => 503;
      assert.match(await tab.evaluate(() => window.g.send('lost').catch((error) => error.message)), /HTTP 503/);
    });

    await check('a refusal is final, and the close event has the reason', async () => {
      fake.answers = [{ status: 403, headers: { 'Content-Type': 'text/plain; charset=utf-8' }, body: 'not here' }];
      fake.endStreams();
      await becomes(() => tab.evaluate(() => [window.g.state, ...window.g.codes]), ['closed', 1006, 1008], 'the end');
    });
    outage = false;
  } finally {
    await fake.stop();
  }

  await check('no console errors', () => assert.deepEqual(pageErrors, []));
});
