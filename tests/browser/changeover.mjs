// The changeover from the fallback to the WebSocket: the modern API in node and in Chromium at once, against a running
// gateway behind a proxy that refuses WebSockets for a while:
//
//   node tests/browser/changeover.mjs http://127.0.0.1:8000
//
// CHROMIUM    the browser, as chromium.mjs says
// HEARTBEAT   the gateway's heartbeat, if it has one
//
// The last line is `N passed, N failed`.
import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import WebSocket from 'ws';
import '../../static/ws4redis.js';
import { blockingProxy } from './blocking_proxy.mjs';
import { becomes, check, unique, withChromium } from './chromium.mjs';
import { received, open, send, states, transport } from './sockets.mjs';

const WHOLE_RUN_MS = 90_000;
/** The first attempt starts after 7.5 s, and a busy stream overlaps with the WebSocket for ten. */
const CHANGE_MS = 30_000;
const FLAGS = { subscribe: 'broadcast', publish: 'broadcast', heartbeat: process.env.HEARTBEAT };
if (!process.argv[2]) {
  console.error('usage: changeover.mjs http://HOST:PORT');
  process.exit(64);
}
const origin = new URL(process.argv[2]).origin;
const script = readFileSync(new URL('../../static/ws4redis.js', import.meta.url), 'utf8');
const PAGES = {
  '/page': { type: 'text/html', text: '<!doctype html><link rel="icon" href="data:,"><script src="/client.js"></script>' },
  '/client.js': { type: 'text/javascript', text: script },
};

// This process acts as a page.
globalThis.window = globalThis;
// Node 20's own WebSocket emits no close event when it is refused.
globalThis.WebSocket = class extends WebSocket {
  constructor(...args) {
    super(...args);
    this.on('error', () => {});
  }
};
const node = { evaluate: async (body, argument) => body(argument) };
const direct = (facility) => `${origin.replace('http', 'ws')}/ws/${facility}`;

await withChromium(WHOLE_RUN_MS, { permissions: ['local-network-access'] }, async (browser) => {
  const proxies = [];
  const proxied = async (makeTab) => {
    const proxy = await blockingProxy(origin, PAGES);
    proxies.push(proxy);
    const path = (facility) => `${proxy.origin.replace('http', 'ws')}/ws/${facility}`;
    return { tab: await makeTab(proxy), proxy, path };
  };
  const chromium = async (proxy) => {
    const tab = await browser.newPage();
    await tab.goto(`${proxy.origin}/page`);
    await tab.evaluate(() => (Math.random = () => 0));
    return tab;
  };
  Math.random = () => 0;
  const all = { node: await proxied(async () => node), chromium: await proxied(chromium) };
  const inBoth = (body) =>
    Promise.all(
      Object.entries(all).map(([name, one]) =>
        body({ name: `${name}-${unique('socket')}`.replaceAll('-', '_'), ...one }).catch((error) => {
          error.message = `in ${name}: ${error.message}`;
          throw error;
        }),
      ),
    );

  await check('after a reset and one refusal the client connects by WebSocket again', () =>
    inBoth(async ({ name, tab, proxy, path }) => {
      proxy.refuse = 0;
      await open(tab, name, path(unique('cut')), FLAGS);
      assert.equal(await transport(tab, name)(), 'websocket');
      proxy.refuse = 1;
      proxy.cut();
      await becomes(async () => (await states(tab, name)()).at(-1), '+gap', 'the last state');
      assert.deepEqual([await transport(tab, name)(), proxy.refused], ['websocket', 1]);
    }),
  );

  /** Sends numbered messages in both directions while WebSockets are refused, then allowed, until after the changeover. */
  const feeds = (everyMs) =>
    inBoth(async ({ name, tab, proxy, path }) => {
      const facility = unique('feed');
      const other = `${name}_other`;
      await open(node, other, direct(facility), { ...FLAGS, fallback: false });
      await send(node, other, 'kept');
      // Until Redis has it, the page could receive it as a live message, too.
      const probe = `${name}_probe`;
      await open(node, probe, direct(facility), { ...FLAGS, fallback: false });
      await becomes(async () => (await received(node, probe)())[0], 'kept', 'the persisted message');
      proxy.refuse = Infinity;
      await open(tab, name, path(facility), FLAGS);
      assert.equal(await transport(tab, name)(), 'sse');
      const wanted = [['kept'], []];
      let after = 0;
      for (let i = 0; after < 10; i += 1) {
        if (i * everyMs > CHANGE_MS) assert.fail('no changeover');
        wanted[0].push(`down ${i}`);
        wanted[1].push(`up ${i}`);
        // Each direction waits for its own acknowledgement only.
        await Promise.all([send(node, other, `down ${i}`), send(tab, name, `up ${i}`)]);
        await new Promise((resolve) => setTimeout(resolve, everyMs));
        if (i === 3) proxy.refuse = 0;
        if ((await transport(tab, name)()) === 'websocket') after += 1;
      }
      await becomes(received(tab, name), wanted[0], 'the messages of the page');
      await becomes(received(node, other), wanted[1], 'the messages of the other client');
      assert.deepEqual(await states(tab, name)(), ['open', '+open']);
    });

  await check('a slow feed changes over to the WebSocket without a loss or a duplicate', () => feeds(1500));
  await check('a busy feed changes over to the WebSocket without a loss or a duplicate', () => feeds(15));
  await Promise.all(proxies.map((proxy) => proxy.stop()));
});
