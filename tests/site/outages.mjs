// Outages between the visitors and the gateway.
import assert from 'node:assert/strict';
import { becomes, check, unique } from '../browser/checks.mjs';
import { received, open, send, stateOf, states, transport } from '../browser/sockets.mjs';
import { allReceive, waitUntilOpen, closeAll, submitMessage, textOf } from './visitors.mjs';

const RECONNECT_MS = 15_000;
const AT_ONCE_MS = 200;
/** Covers three attempts, of which the last waits half a minute. */
const CHANGE_MS = 60_000;
/** Three missed heartbeats at 5 s each; the client closes at the next one. */
const SILENCE_MS = 20_000;

/** Runs `outage`, and expects that the pages' sockets reconnect or stay open; then the pages chat. */
async function expectRecovery(pages, outage, { expectReconnect }) {
  for (const page of pages) {
    await page.evaluate(() => {
      window.chatSocket.states.length = 0;
      // Keeps the reconnect delays short.
      Math.random = () => 0.1;
    });
  }
  await outage();
  for (const page of pages) {
    const last = async () => (await states(page, 'chatSocket')()).at(-1);
    if (expectReconnect) await becomes(last, '+gap', `reconnected on ${page.url()}`, RECONNECT_MS);
  }
  for (const page of pages) {
    const text = unique('after');
    await becomes(stateOf(page, 'chatSocket'), 'open', 'state', RECONNECT_MS);
    await submitMessage(page, text);
    await allReceive(pages, text, RECONNECT_MS);
  }
  if (!expectReconnect) for (const page of pages) assert.deepEqual(await states(page, 'chatSocket')(), [], 'a socket changed its state');
}

const noteTime = (page, target, type) =>
  page.evaluate(
    ([target, type]) => {
      const note = () => (window.noted ??= Date.now());
      (target === 'window' ? window : document).addEventListener(type, note, { once: true });
    },
    [target, type],
  );

/** Expects that the page tried to connect when the event of `noteTime` arrived. */
async function triedAtOnce(page) {
  const after = await page.evaluate(
    () => window.chatSocket.at.find(({ state }) => state === 'connecting').time - window.noted,
  );
  assert.ok(Math.abs(after) < AT_ONCE_MS, `tried ${after} ms after the event`);
}

async function recoveryChecks({ deployment, john, mary }, cases) {
  for (const [name, what, outcome] of cases) {
    await check(name, async () => {
      const pages = [await john.chat(), await mary.chat()];
      await expectRecovery(pages, () => deployment.do(what), outcome);
      await closeAll(...pages);
    });
  }
}

const RESTART = ['a restart of the gateway: all pages reconnect', 'restart_gateways', { expectReconnect: true }];

export const restarts = (context) =>
  recoveryChecks(context, [
    ['a reload of nginx: no socket closes', 'reload_proxy', { expectReconnect: false }],
    ['a restart of Redis: no socket closes', 'restart_redis', { expectReconnect: false }],
    ['a restart of nginx: all pages reconnect', 'restart_proxy', { expectReconnect: true }],
    RESTART,
  ]);

/** The outages that are tested behind each proxy. */
export const reconnects = (context) =>
  recoveryChecks(context, [['a restart of the proxy: all pages reconnect', 'restart_proxy', { expectReconnect: true }], RESTART]);

export async function network({ deployment, john, mary }) {
  await check('an offline page makes no attempts for a while; it connects at once when online', async () => {
    const [johns, marys] = [await john.chat(), await mary.chat()];
    // With a delay of 0 an attempt would start at once.
    await johns.evaluate(() => (Math.random = () => 0));
    await johns.setOfflineMode(true);
    await becomes(() => johns.evaluate(() => navigator.onLine), false, 'navigator.onLine');
    await deployment.do('kill_gateways');
    await becomes(stateOf(johns, 'chatSocket'), 'waiting', 'state');
    await becomes(() => textOf(johns, '#state'), 'No network', 'the state on the page');
    await deployment.do('start_gateways');
    await becomes(stateOf(marys, 'chatSocket'), 'open', 'state of mary', RECONNECT_MS);
    const tried = (await states(johns, 'chatSocket')()).filter((state) => state === 'connecting');
    assert.deepEqual(tried, [], 'attempts while offline');
    await noteTime(johns, 'window', 'online');
    await johns.setOfflineMode(false);
    await becomes(stateOf(johns, 'chatSocket'), 'open', 'state');
    await triedAtOnce(johns);
    const text = unique('online');
    await submitMessage(johns, text);
    await allReceive([johns, marys], text);
    await closeAll(johns, marys);
  });

  await check('a browser that wrongly reports no network connects, and reconnects', async () => {
    const page = await john.browser.newPage();
    await page.evaluateOnNewDocument(() => Object.defineProperty(navigator, 'onLine', { get: () => false }));
    await page.goto(`${deployment.origin}/chat/`);
    await waitUntilOpen(page);
    await expectRecovery([page], () => deployment.do('restart_gateways'), { expectReconnect: true });
    await page.close();
  });
}

export async function hidden({ deployment, john }) {
  await check('a tab that becomes visible connects at once, whatever delay was left', async () => {
    const page = await john.chat();
    // The upper bounds of the delays: 1, 3, 7, 15 s.
    await page.evaluate(() => (Math.random = () => 0.999));
    const foreground = await john.page('/accounts/login/');
    await foreground.bringToFront();
    await becomes(() => page.evaluate(() => document.visibilityState), 'hidden', 'the tab in the background');
    await deployment.do('kill_gateways');
    const delay = () => page.evaluate(() => Math.max(0, ...window.chatSocket.at.map((entry) => entry.delay ?? 0)));
    await becomes(async () => (await delay()) > 6000, true, 'a long wait', RECONNECT_MS);
    await deployment.do('start_gateways');
    await noteTime(page, 'document', 'visibilitychange');
    await page.evaluate(() => (window.chatSocket.states.length = window.chatSocket.at.length = 0));
    await becomes(stateOf(page, 'chatSocket'), 'waiting', 'state');
    await page.bringToFront();
    await becomes(stateOf(page, 'chatSocket'), 'open', 'state');
    await triedAtOnce(page);
    await closeAll(page, foreground);
  });
}

export async function fallback({ deployment, john, mary }) {
  const free = await mary.chat();
  await deployment.do('block', true);
  const blocked = await john.chat();
  await check('where WebSockets are blocked, the chat uses an event stream and POST', async () => {
    assert.equal(await transport(blocked, 'chatSocket')(), 'sse');
    assert.equal(await textOf(blocked, '#state'), 'Connected by event stream');
    for (const page of [blocked, free, blocked]) {
      const text = unique('Grüße');
      await submitMessage(page, text);
      await allReceive([blocked, free], text);
    }
    const flags = { subscribe: 'user', publish: 'user', echo: true, heartbeat: deployment.heartbeat };
    const list = [await deployment.do('token', 'jim', 600), await deployment.do('token', 'jim', 600)];
    await open(blocked, 'jims', unique('bearer'), { ...flags, tokens: list });
    await send(blocked, 'jims', 'as jim');
    await becomes(received(blocked, 'jims'), ['as jim'], 'the messages of jim');
    await blocked.evaluate(() => window.jims.close());
  });

  await check('the event stream reconnects after a restart of the gateway', () =>
    expectRecovery([blocked, free], () => deployment.do('restart_gateways'), { expectReconnect: true }));
  assert.equal(await transport(free, 'chatSocket')(), 'sse');

  await check('once WebSockets pass again, the chat changes over to them without a loss or a notice', async () => {
    await deployment.do('block', false);
    for (const page of [blocked, free]) await becomes(transport(page, 'chatSocket'), 'websocket', 'transport', CHANGE_MS);
    assert.equal(await textOf(blocked, '#state'), 'Connected');
    for (const page of [blocked, free]) {
      const text = unique('over');
      await submitMessage(page, text);
      await allReceive([blocked, free], text);
    }
    for (const page of [blocked, free]) assert.equal((await states(page, 'chatSocket')()).at(-1), '+gap');
    await deployment.do('block', true);
    await blocked.reload();
    await waitUntilOpen(blocked);
    assert.equal(await transport(blocked, 'chatSocket')(), 'sse');
  });

  await check('a frozen gateway is detected on each transport, and all pages recover', async () => {
    // Prevents the change over to the WebSocket.
    await blocked.evaluate(() => {
      window.RealWebSocket = WebSocket;
      window.WebSocket = undefined;
    });
    await deployment.do('block', false);
    const [modern, old] = [await mary.chat(), await mary.page('/accounts/login/')];
    // The legacy API does not expose its WebSocket.
    await old.evaluateOnNewDocument(() => {
      window.WebSocket = class extends WebSocket {
        constructor(...args) {
          super(...args);
          window.latest = this;
        }
      };
    });
    await old.goto(`${deployment.origin}/old/chat/`);
    await becomes(() => textOf(old, '#state'), 'connected', 'the legacy page');
    // The disconnected state may last only a few milliseconds, so all states are recorded.
    await old.evaluate(() => {
      window.shownStates = [];
      const state = document.querySelector('#state');
      new MutationObserver(() => window.shownStates.push(state.textContent)).observe(state, { childList: true });
    });
    for (const page of [blocked, modern]) await page.evaluate(() => (window.chatSocket.at.length = 0));
    await deployment.do('freeze_gateways');
    const since = Date.now();
    const sent = blocked.evaluate(() =>
      window.chatSocket.send('into the void').then(() => 'sent', ({ message }) => message),
    );
    for (const page of [blocked, modern]) {
      await becomes(() => page.evaluate(() => window.chatSocket.at[0]?.state), 'waiting', 'state', SILENCE_MS + 2000);
      const at = await page.evaluate(() => window.chatSocket.at[0].time);
      assert.ok(at - since <= SILENCE_MS + 500, `noticed after ${at - since} ms`);
    }
    const left = () => since + SILENCE_MS + 500 - Date.now();
    await becomes(() => old.evaluate(() => window.latest.readyState), 2, 'the legacy page closes', left());
    assert.match(await sent, /no answer/);
    await blocked.evaluate(() => (window.WebSocket = window.RealWebSocket));
    await deployment.do('thaw_gateways');
    for (const page of [blocked, modern]) await becomes(stateOf(page, 'chatSocket'), 'open', 'state', 2 * RECONNECT_MS);
    await becomes(() => old.evaluate(() => window.shownStates[0]), 'disconnected', 'the state on the legacy page', RECONNECT_MS);
    await becomes(() => textOf(old, '#state'), 'connected', 'the legacy page', RECONNECT_MS);
    await becomes(transport(blocked, 'chatSocket'), 'websocket', 'transport', CHANGE_MS);
    const text = unique('again');
    await submitMessage(blocked, text);
    await allReceive([blocked, modern, old], text);
    await closeAll(modern, old);
  });
  await closeAll(blocked, free);
}
