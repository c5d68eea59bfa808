// What comes between visitors and the gateway.
import assert from 'node:assert/strict';
import { becomes, check, unique } from '../browser/checks.mjs';
import { got, open, send, stateOf, states, transport } from '../browser/sockets.mjs';
import { allHear, attend, closeAll, say, textOf } from './stage.mjs';

const RECONNECT_MS = 15_000;
const AT_ONCE_MS = 200;
/** The third try at most, with half a minute before it. */
const CHANGE_MS = 60_000;
/** Three beats are missed, 5 s each, and at the next one it is given up. */
const SILENCE_MS = 20_000;

/** Makes `it` happen, and looks whether the pages' sockets come back or have not noticed; then they chat. */
async function survive(pages, it, { back }) {
  for (const page of pages) {
    await page.evaluate(() => {
      window.line.states.length = 0;
      // Delays are short, so that the run is.
      Math.random = () => 0.1;
    });
  }
  await it();
  for (const page of pages) {
    const last = async () => (await states(page, 'line')()).at(-1);
    if (back) await becomes(last, '+gap', `back on ${page.url()}`, RECONNECT_MS);
  }
  for (const page of pages) {
    const text = unique('after');
    await becomes(stateOf(page, 'line'), 'open', 'state', RECONNECT_MS);
    await say(page, text);
    await allHear(pages, text, RECONNECT_MS);
  }
  if (!back) for (const page of pages) assert.deepEqual(await states(page, 'line')(), [], 'somebody has noticed');
}

const noteTime = (page, target, type) =>
  page.evaluate(
    ([target, type]) => {
      const note = () => (window.noted ??= Date.now());
      (target === 'window' ? window : document).addEventListener(type, note, { once: true });
    },
    [target, type],
  );

/** The page has tried to connect when the event came that was noted. */
async function triedAtOnce(page) {
  const after = await page.evaluate(
    () => window.line.at.find(({ state }) => state === 'connecting').time - window.noted,
  );
  assert.ok(Math.abs(after) < AT_ONCE_MS, `tried ${after} ms after the event`);
}

async function survivals({ world, john, mary }, cases) {
  for (const [name, what, outcome] of cases) {
    await check(name, async () => {
      const pages = [await john.chat(), await mary.chat()];
      await survive(pages, () => world.do(what), outcome);
      await closeAll(...pages);
    });
  }
}

const RESTART = ['the gateway is restarted: all come back', 'restart_gateways', { back: true }];

export const restarts = (stage) =>
  survivals(stage, [
    ['nginx is reloaded: nobody notices', 'reload_proxy', { back: false }],
    ['Redis is restarted: nobody notices', 'restart_redis', { back: false }],
    ['nginx is restarted: all come back', 'restart_proxy', { back: true }],
    RESTART,
  ]);

/** What any proxy is to get through. */
export const reconnects = (stage) =>
  survivals(stage, [['the proxy is restarted: all come back', 'restart_proxy', { back: true }], RESTART]);

export async function network({ world, john, mary }) {
  await check('offline nothing is tried for a while; online it connects at once', async () => {
    const [johns, marys] = [await john.chat(), await mary.chat()];
    // The next attempt is due at once.
    await johns.evaluate(() => (Math.random = () => 0));
    await johns.setOfflineMode(true);
    await becomes(() => johns.evaluate(() => navigator.onLine), false, 'navigator.onLine');
    await world.do('kill_gateways');
    await becomes(stateOf(johns, 'line'), 'waiting', 'state');
    await becomes(() => textOf(johns, '#state'), 'No network', 'the page says');
    await world.do('start_gateways');
    await becomes(stateOf(marys, 'line'), 'open', 'state of mary', RECONNECT_MS);
    const tried = (await states(johns, 'line')()).filter((state) => state === 'connecting');
    assert.deepEqual(tried, [], 'attempts while offline');
    await noteTime(johns, 'window', 'online');
    await johns.setOfflineMode(false);
    await becomes(stateOf(johns, 'line'), 'open', 'state');
    await triedAtOnce(johns);
    const text = unique('online');
    await say(johns, text);
    await allHear([johns, marys], text);
    await closeAll(johns, marys);
  });

  await check('a browser that wrongly says that there is no network connects, and comes back', async () => {
    const page = await john.browser.newPage();
    await page.evaluateOnNewDocument(() => Object.defineProperty(navigator, 'onLine', { get: () => false }));
    await page.goto(`${world.origin}/chat/`);
    await attend(page);
    await survive([page], () => world.do('restart_gateways'), { back: true });
    await page.close();
  });
}

export async function hidden({ world, john }) {
  await check('a tab that is shown again connects at once, however long it would have waited', async () => {
    const page = await john.chat();
    // Always the longest wait: below 1, 3, 7, 15 s.
    await page.evaluate(() => (Math.random = () => 0.999));
    const front = await john.page('/accounts/login/');
    await front.bringToFront();
    await becomes(() => page.evaluate(() => document.visibilityState), 'hidden', 'the tab behind');
    await world.do('kill_gateways');
    const delay = () => page.evaluate(() => Math.max(0, ...window.line.at.map((entry) => entry.delay ?? 0)));
    await becomes(async () => (await delay()) > 6000, true, 'a long wait', RECONNECT_MS);
    await world.do('start_gateways');
    await noteTime(page, 'document', 'visibilitychange');
    await page.evaluate(() => (window.line.states.length = window.line.at.length = 0));
    await becomes(stateOf(page, 'line'), 'waiting', 'state');
    await page.bringToFront();
    await becomes(stateOf(page, 'line'), 'open', 'state');
    await triedAtOnce(page);
    await closeAll(page, front);
  });
}

export async function fallback({ world, john, mary }) {
  const free = await mary.chat();
  await world.do('block', true);
  const blocked = await john.chat();
  await check('where no WebSocket passes, the chat goes by event stream and POST', async () => {
    assert.equal(await transport(blocked, 'line')(), 'sse');
    assert.equal(await textOf(blocked, '#state'), 'Connected by event stream');
    for (const page of [blocked, free, blocked]) {
      const text = unique('Grüße');
      await say(page, text);
      await allHear([blocked, free], text);
    }
    const flags = { subscribe: 'user', publish: 'user', echo: true, heartbeat: world.heartbeat };
    const list = [await world.do('token', 'jim', 600), await world.do('token', 'jim', 600)];
    await open(blocked, 'jims', unique('bearer'), { ...flags, tokens: list });
    await send(blocked, 'jims', 'as jim');
    await becomes(got(blocked, 'jims'), ['as jim'], 'what jim hears');
    await blocked.evaluate(() => window.jims.close());
  });

  await check('the event stream comes back when the gateway is restarted', () =>
    survive([blocked, free], () => world.do('restart_gateways'), { back: true }));
  assert.equal(await transport(free, 'line')(), 'sse');

  await check('where WebSockets pass again, the chat goes back to them by itself, and nobody notices', async () => {
    await world.do('block', false);
    for (const page of [blocked, free]) await becomes(transport(page, 'line'), 'websocket', 'transport', CHANGE_MS);
    assert.equal(await textOf(blocked, '#state'), 'Connected');
    for (const page of [blocked, free]) {
      const text = unique('over');
      await say(page, text);
      await allHear([blocked, free], text);
    }
    for (const page of [blocked, free]) assert.equal((await states(page, 'line')()).at(-1), '+gap');
    await world.do('block', true);
    await blocked.reload();
    await attend(blocked);
    assert.equal(await transport(blocked, 'line')(), 'sse');
  });

  await check('silence of the gateway is noticed on all ways, and ends', async () => {
    // It would change over to the WebSocket.
    await blocked.evaluate(() => {
      window.RealWebSocket = WebSocket;
      window.WebSocket = undefined;
    });
    await world.do('block', false);
    const [modern, old] = [await mary.chat(), await mary.page('/accounts/login/')];
    // The old page keeps its WebSocket to itself.
    await old.evaluateOnNewDocument(() => {
      window.WebSocket = class extends WebSocket {
        constructor(...args) {
          super(...args);
          window.latest = this;
        }
      };
    });
    await old.goto(`${world.origin}/old/chat/`);
    await becomes(() => textOf(old, '#state'), 'connected', 'the old page');
    // It may be disconnected for a few milliseconds only.
    await old.evaluate(() => {
      window.said = [];
      const state = document.querySelector('#state');
      new MutationObserver(() => window.said.push(state.textContent)).observe(state, { childList: true });
    });
    for (const page of [blocked, modern]) await page.evaluate(() => (window.line.at.length = 0));
    await world.do('freeze_gateways');
    const since = Date.now();
    const sent = blocked.evaluate(() =>
      window.line.send('into the void').then(() => 'sent', ({ message }) => message),
    );
    for (const page of [blocked, modern]) {
      await becomes(() => page.evaluate(() => window.line.at[0]?.state), 'waiting', 'state', SILENCE_MS + 2000);
      const at = await page.evaluate(() => window.line.at[0].time);
      assert.ok(at - since <= SILENCE_MS + 500, `noticed after ${at - since} ms`);
    }
    const left = () => since + SILENCE_MS + 500 - Date.now();
    await becomes(() => old.evaluate(() => window.latest.readyState), 2, 'the old page closes', left());
    assert.match(await sent, /no answer/);
    await blocked.evaluate(() => (window.WebSocket = window.RealWebSocket));
    await world.do('thaw_gateways');
    for (const page of [blocked, modern]) await becomes(stateOf(page, 'line'), 'open', 'state', 2 * RECONNECT_MS);
    await becomes(() => old.evaluate(() => window.said[0]), 'disconnected', 'what the old page said', RECONNECT_MS);
    await becomes(() => textOf(old, '#state'), 'connected', 'the old page', RECONNECT_MS);
    await becomes(transport(blocked, 'line'), 'websocket', 'transport', CHANGE_MS);
    const text = unique('again');
    await say(blocked, text);
    await allHear([blocked, modern, old], text);
    await closeAll(modern, old);
  });
  await closeAll(blocked, free);
}
