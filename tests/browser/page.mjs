// The page API in a real browser: histories, gaps and the fallback, against a running gateway behind a proxy that
// cuts and refuses WebSockets:
//
//   node tests/browser/page.mjs http://127.0.0.1:8000
//
// The gateway keeps histories of `kept-*`.
//
// CHROMIUM    the browser, as chromium.mjs says
// SERVER_KILL, SERVER_START   shell commands that kill the gateway, and start it again on the same address
//
// The last line is `N passed, N failed`.
import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { blockingProxy } from './blocking_proxy.mjs';
import { becomes, check, sh, unique, withChromium } from './chromium.mjs';

const WHOLE_RUN_MS = 120_000;
const MESSAGES = 600;
const CUTS = 25;
const { SERVER_KILL, SERVER_START } = process.env;
if (!process.argv[2]) {
  console.error('usage: page.mjs http://HOST:PORT');
  process.exit(64);
}
const gateway = new URL(process.argv[2]).origin;
const script = readFileSync(new URL('../../static/ws4redis.js', import.meta.url), 'utf8');
const PAGES = {
  '/page': { type: 'text/html', text: '<!doctype html><link rel="icon" href="data:,"><script src="/client.js"></script>' },
  '/client.js': { type: 'text/javascript', text: script },
};

/** Opens the page API in a tab, and subscribes to facilities by name; each records what it hears. */
async function subscribe(tab, facilities, fallback = false) {
  await tab.evaluate(
    ([facilities, fallback]) => {
      window.page ??= WS4Redis.page('/ws/', { fallback, queue: 10 });
      window.heard ??= {};
      for (const [facility, options] of Object.entries(facilities)) {
        const seen = (window.heard[facility] = []);
        const one = ((window.subscriptions ??= {})[facility] = page.subscribe(facility, options));
        one.addEventListener('message', ({ data }) => seen.push(data));
        for (const type of ['subscribed', 'gap', 'refused']) one.addEventListener(type, () => seen.push(`+${type}`));
        one.addEventListener('join', ({ user }) => seen.push(`+join ${user}`));
        one.addEventListener('leave', ({ user }) => seen.push(`+leave ${user}`));
      }
    },
    [facilities, fallback],
  );
  for (const facility of Object.keys(facilities)) {
    await becomes(() => tab.evaluate((name) => subscriptions[name].state, facility), 'subscribed', facility);
  }
}

const heard = (tab, facility) => () => tab.evaluate((name) => heard[name], facility);
const publish = (tab, facility, text) =>
  tab.evaluate(([name, text]) => subscriptions[name].send(text), [facility, text]);
const without = (words, list) => list.filter((word) => !words.includes(word));

await withChromium(WHOLE_RUN_MS, { permissions: ['local-network-access'] }, async (browser) => {
  const proxy = await blockingProxy(gateway, PAGES);
  proxy.refuse = 0;
  // Nobody cuts its line.
  const undisturbed = await blockingProxy(gateway, PAGES);
  undisturbed.refuse = 0;
  const opened = async ({ origin } = proxy) => {
    const tab = await browser.newPage();
    await tab.goto(`${origin}/page`);
    // Short delays before each attempt.
    await tab.evaluate(() => (Math.random = () => 0.01));
    return tab;
  };
  const publisher = await opened(undisturbed);

  await check('facilities share a socket, and each hears its own messages', async () => {
    const tab = await opened();
    const [one, two] = [unique('one'), unique('two')];
    await subscribe(tab, { [one]: { publish: 'broadcast', echo: true }, [two]: { publish: 'broadcast', echo: true } });
    await publish(tab, one, 'for one');
    await publish(tab, two, 'für zwei');
    await becomes(heard(tab, one), ['+subscribed', 'for one'], 'one');
    await becomes(heard(tab, two), ['+subscribed', 'für zwei'], 'two');
    await tab.close();
  });

  await check('with a history each message arrives once and in order, however often the line is cut', async () => {
    const tab = await opened();
    const facility = unique('kept');
    await subscribe(publisher, { [facility]: { publish: 'broadcast' } });
    await subscribe(tab, { [facility]: {} });
    const wanted = Array.from({ length: MESSAGES }, (_, number) => `${number}`);
    const sending = publisher.evaluate(
      async ([name, texts]) => {
        for (const text of texts) {
          await subscriptions[name].send(text);
          if (text % 5 === 0) await new Promise((resolve) => setTimeout(resolve, 10));
        }
      },
      [facility, wanted],
    );
    for (let cut = 0; cut < CUTS; cut += 1) {
      await new Promise((resolve) => setTimeout(resolve, 60 + 40 * Math.random()));
      proxy.cut();
    }
    await sending;
    const messages = async () => without(['+subscribed'], await heard(tab, facility)());
    await becomes(async () => (await messages()).length, MESSAGES, 'messages');
    assert.deepEqual(await messages(), wanted);
    const subscribed = (await heard(tab, facility)()).length - MESSAGES;
    assert.ok(subscribed > 5, `subscribed ${subscribed} times`);
    await tab.close();
  });

  await check('without a history each cut is a gap', async () => {
    const tab = await opened();
    const facility = unique('news');
    await subscribe(tab, { [facility]: {} });
    proxy.cut();
    await becomes(heard(tab, facility), ['+subscribed', '+subscribed', '+gap'], 'a gap');
    await tab.close();
  });

  await check('a history that was lost with its Redis is a gap', async () => {
    const tab = await opened();
    const facility = unique('kept');
    await subscribe(tab, { [facility]: { publish: 'broadcast', echo: true } });
    await publish(tab, facility, 'before');
    await becomes(heard(tab, facility), ['+subscribed', 'before'], 'the message');
    await sh(SERVER_KILL);
    await sh(SERVER_START);
    await becomes(heard(tab, facility), ['+subscribed', 'before', '+subscribed', '+gap'], 'a gap');
    await tab.close();
  });

  await check('while WebSockets are refused, messages come by streams; later one socket again', async () => {
    const tab = await opened();
    const facility = unique('news');
    proxy.refuse = Infinity;
    await subscribe(tab, { [facility]: { publish: 'broadcast' } }, true);
    await subscribe(publisher, { [facility]: { publish: 'broadcast' } });
    await publish(publisher, facility, 'by a stream');
    await becomes(heard(tab, facility), ['+subscribed', 'by a stream'], 'the stream');
    await publish(tab, facility, 'by POST');
    await becomes(heard(publisher, facility), ['+subscribed', 'by POST'], 'the POST');
    proxy.refuse = 0;
    await becomes(() => tab.evaluate(() => page.id !== null), true, 'one socket', 40_000);
    const all = ['+subscribed', 'by a stream', '+subscribed', '+gap', 'by POST'];
    // The last value that Redis has kept follows.
    await becomes(heard(tab, facility), all, 'the socket');
    await publish(publisher, facility, 'by a socket');
    await becomes(async () => (await heard(tab, facility)()).at(-1), 'by a socket', 'a message');
    await tab.close();
  });
  await Promise.all([proxy.stop(), undisturbed.stop()]);
});
