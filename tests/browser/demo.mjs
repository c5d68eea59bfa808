// The demo page in a real browser, against a running gateway:
//
//   node tests/browser/demo.mjs http://127.0.0.1:8000
//
// CHROMIUM            the browser, as chromium.mjs says
// REDIS_CLI           a command to which commands are appended, e.g. `redis-cli -p 6379`
// SERVER_STOP, SERVER_START   shell commands that stop the gateway and start it again on the same address (the second
//                     one must return); with both set, the reconnects of the page are tested too
// SHOWN_SETTINGS      a file that gets the settings which the page shows for demo_rules.mjs
//
// The last line is `N passed, N failed`.
import assert from 'node:assert/strict';
import { checkAccess } from './accessible.mjs';
import { checkAddress, checkLines } from './address.mjs';
import { blockingProxy } from './blocking_proxy.mjs';
import { becomes, check, DEADLINE_MS, sh, skip, unique, withChromium } from './chromium.mjs';
import { checkFirst, checkLooks, checkLost } from './looks.mjs';
import { checkOneSocket } from './one_socket.mjs';
import { checkOutage, checkReturn } from './outage.mjs';
import { arrived, fact, logged, logs, nameOf, overall, person, sendInChat, side, texts } from './tour.mjs';

const WHOLE_RUN_MS = 240_000;

const base = process.argv[2];
if (!base) {
  console.error('usage: node demo.mjs http://HOST:PORT');
  process.exit(64);
}
const origin = new URL(base).origin;
const { REDIS_CLI, SERVER_STOP, SERVER_START, SHOWN_SETTINGS } = process.env;
const redis = (...args) => sh(`${REDIS_CLI} "$@"`, ...args);

const foreign = [];
const pageErrors = [];
let outage = false;

function watch(page) {
  page.setDefaultTimeout(DEADLINE_MS);
  page.on('pageerror', (error) => pageErrors.push(`uncaught: ${error.message}`));
  page.on('console', (message) => {
    if (!['error', 'warning'].includes(message.type())) return;
    // During an outage the browser itself reports each attempt, and the client the first one of a connection.
    if (outage && /WebSocket connection to|Failed to load resource|ws4redis: .*: no answer/.test(message.text())) return;
    pageErrors.push(`console ${message.type()}: ${message.text()}`);
  });
  page.on('websocket', (socket) => {
    if (new URL(socket.url()).host !== new URL(origin).host) foreign.push(socket.url());
  });
}

const options = { viewport: { width: 1280, height: 900 }, permissions: ['clipboard-read', 'clipboard-write'] };
await withChromium(WHOLE_RUN_MS, options, async (browser) => {
  browser.on('request', (request) => {
    const url = new URL(request.url());
    if (url.protocol !== 'data:' && url.origin !== origin) foreign.push(request.url());
  });
  await browser.exposeFunction('reportViolation', (text) => pageErrors.push(`CSP: ${text}`));
  await browser.addInitScript(() => {
    document.addEventListener('securitypolicyviolation', (event) =>
      window.reportViolation(`${event.violatedDirective} ${event.blockedURI}`),
    );
  });

  const one = browser.pages()[0] ?? (await browser.newPage());
  const two = await browser.newPage();
  const tabs = [one, two];
  tabs.forEach(watch);
  const everywhere = (text) => Promise.all(tabs.flatMap((tab) => [1, 2].map((n) => arrived(person(tab, n), text))));

  await check('the page opens in two tabs under a strict CSP', async () => {
    for (const tab of tabs) {
      const response = await tab.goto(`${origin}/`, { timeout: DEADLINE_MS });
      assert.equal(response.status(), 200);
      const policy = response.headers()['content-security-policy'] ?? '';
      assert.match(policy, /default-src 'self'/);
      assert.doesNotMatch(policy, /unsafe/);
      await overall(tab, 'open');
      assert.equal(await tab.locator('#overall').textContent(), 'connected');
    }
  });

  await check('the gateway has replaced the placeholders', async () => {
    const metas = await one.locator('meta[name]').evaluateAll((all) => all.map((meta) => meta.content));
    assert.ok(!metas.some((content) => content.includes('{{')), metas.join(' | '));
    assert.equal(await one.locator('#kept-time').textContent(), 'for 1 hour (the setting expire)');
    assert.match(await one.locator('.docs').textContent(), /^Version \d+\.\d+\.\d+\. .*docs\/django\.md/s);
  });

  await check('chat: a message reaches every connection in both tabs, and its route is shown', async () => {
    const text = await sendInChat(one, 1, unique('enter'));
    await everywhere(text);
    assert.equal(await person(one, 1).locator('input').inputValue(), '');
    const [ada, ben] = [await nameOf(one, 1), await nameOf(one, 2)];
    const route = new RegExp(
      `^${ada}Redis, (.+:)?broadcast:foobar(${ada}|${ben}) after \\d+ ms and (${ada}|${ben}) after \\d+ ms$`,
    );
    await becomes(async () => route.test(await one.locator('#route').textContent()), true, 'the route');
    assert.match(await two.locator('#route').textContent(), /^Somebody elseRedis, .*everyone here$/);
    await person(two, 2).locator('input').fill(unique('button'));
    await person(two, 2).getByRole('button', { name: 'Send' }).click();
    await everywhere('button-');
  });

  await check('chat: own messages and those of others look different', async () => {
    const text = await sendInChat(one, 1, unique('whose'));
    await everywhere(text);
    const kind = (number) =>
      person(one, number).locator('.messages > *').filter({ hasText: text }).first().getAttribute('class');
    assert.match(await kind(1), /\bown\b/);
    assert.match(await kind(2), /\bothers\b/);
  });

  await check('before the first connection the page is connecting, and nothing can be sent', async () => {
    const page = await browser.newPage();
    watch(page);
    await page.addInitScript(() => {
      window.WebSocket = class extends EventTarget {
        close() {}
      };
    });
    await page.goto(origin);
    await overall(page, 'connecting');
    const button = person(page, 1).getByRole('button', { name: 'Send' });
    assert.equal(await button.getAttribute('aria-disabled'), 'true');
    await checkFirst(page);
    await sendInChat(page, 1, unique('early'));
    await page.locator('#route[data-kind="error"]').filter({ hasText: /^Not sent: / }).waitFor();
    await page.close();
  });

  await check('on a phone the tabs stay in sight', async () => {
    const page = await browser.newPage();
    watch(page);
    await page.setViewportSize({ width: 390, height: 800 });
    await page.goto(origin);
    await overall(page, 'open');
    await page.locator('#echo').scrollIntoViewIfNeeded();
    await page.locator('#tabs a[href="#echo"]').click();
    await page.locator('#tabs a[href="#echo"][aria-current="true"]').waitFor();
    const { y } = await page.locator('#tabs').boundingBox();
    assert.ok(y >= 0 && y < 20, `the tabs are at ${y}`);
    await page.close();
  });

  await check('chat: markup and other scripts arrive as text', async () => {
    const words = [
      `<img src=x onerror="document.title='owned'"><b>${unique('markup')}</b>`,
      `Grüße, 你好, 🦀 ${unique('u')}`,
    ];
    for (const text of words) await everywhere(await sendInChat(two, 1, text));
    assert.equal(await one.locator('#people img, #people .text b').count(), 0);
    assert.notEqual(await one.title(), 'owned');
    const stamps = await person(one, 1).locator('time').allTextContents();
    for (const stamp of stamps) assert.match(stamp, /^\d\d:\d\d:\d\d\.\d\d\d$/);
  });

  await check('chat: a message that does not return is reported as lost', async () => {
    const page = await browser.newPage();
    watch(page);
    await page.addInitScript(() => (WebSocket.prototype.send = () => {}));
    await page.goto(origin);
    await overall(page, 'open');
    await sendInChat(page, 1, unique('lost'));
    const lost = async () =>
      / has not come back: do the \[\[access\]\] rules/.test(await page.locator('#route').textContent());
    await becomes(lost, true, 'the route');
    await page.close();
  });

  await check('without JavaScript the page names the requirement, and hides the empty parts', async () => {
    const session = await browser.newCDPSession(two);
    await session.send('Emulation.setScriptExecutionDisabled', { value: true });
    await two.reload();
    assert.equal(await two.locator('.noscript').isVisible(), true);
    assert.equal(await two.locator('main').isVisible(), false);
    await session.send('Emulation.setScriptExecutionDisabled', { value: false });
    await two.reload();
    await overall(two, 'open');
  });

  await check('who am I: anonymous, with the channels of an anonymous visitor', async () => {
    await becomes(() => fact(one, 'user'), 'anonymous', 'user');
    assert.equal(await fact(one, 'groups'), 'none');
    assert.equal(await fact(one, 'session'), 'none');
    assert.equal(await fact(one, 'known-by'), 'nothing');
    assert.match(await fact(one, 'channels'), /broadcast:foobar$/);
    assert.equal(await one.locator('#personal').isVisible(), false);
    await one.getByText('How to log in').click();
    assert.match(await one.locator('#become').textContent(), /127\.0\.0\.1, on any port.*SESSION_ENGINE/s);
  });

  if (REDIS_CLI) await checkRedis(browser, one, two);
  else skip('publications from Redis, and logins', 'REDIS_CLI is not set');

  await check('last value: a new connection receives the last message, also after a reload', async () => {
    const value = unique('kept');
    await two.locator('#keep-value').fill(value);
    await two.getByRole('button', { name: 'Publish', exact: true }).click();
    const results = two.locator('#newcomers .entry');
    await results.filter({ hasText: `connected, published, left, in` }).filter({ hasText: value }).waitFor();
    await two.getByRole('button', { name: 'Reconnect as a newcomer' }).click();
    const received = (page) =>
      page.locator('#newcomers .entry').filter({ hasText: /Newcomer \d+connected, and got this \d+ ms later/ });
    await received(two).filter({ hasText: value }).waitFor();
    await two.reload();
    await received(two).filter({ hasText: value }).waitFor();
    await overall(two, 'open');
  });

  await check('echo: own messages return only to the connection with the flag', async () => {
    const text = unique('both');
    await one.locator('#both-text').fill(text);
    await one.getByRole('button', { name: 'Send from both' }).click();
    await arrived(side(one, 2), 'did not come back');
    const both = [`With echo: ${text}`, `Without echo: ${text}`];
    await becomes(async () => (await texts(side(one, 1))).sort(), both, 'the messages with echo');
    assert.deepEqual(await texts(side(one, 2)), [`With echo: ${text}`, 'Its own text did not come back.']);
    assert.equal(await side(one, 1).locator('.after').textContent(), 'own');
    assert.equal(await side(one, 2).locator('.after').count(), 0);
  });

  await checkOneSocket(one, two, SHOWN_SETTINGS);

  await check('log: each connection with its address, transport and end', async () => {
    const name = await nameOf(one, 1);
    const address = `${origin.replace('http', 'ws')}/ws/foobar?subscribe-broadcast&publish-broadcast&echo`;
    await logs(one, name, `connecting to ${address}`);
    await logs(one, name, 'open, by WebSocket');
    await logs(one, 'Newcomer 1', 'closed with 1000: normal; for good');
    const shown = await one.locator('#connections li').allTextContents();
    assert.ok(shown.includes(`${name}open`) && !shown.some((text) => text.startsWith('Newcomer')), shown.join());
  });

  await checkAddress(one, two);
  await checkLines(one, two);
  await checkAccess(one, two);
  await checkLooks(browser, one, origin);

  await check('log: the number of lines is bounded', async () => {
    await two.evaluate(() => {
      for (let i = 0; i < 75; i += 1) document.getElementById('newcomer').click();
    });
    await logs(two, 'Newcomer 76', 'closed with 1000');
    await becomes(async () => (await logged(two)).length, 200, 'lines');
  });

  if (SERVER_STOP && SERVER_START) {
    await check('the gateway stops: the page shows the reason and the next attempt', async () => {
      outage = true;
      await sh(SERVER_STOP);
      const name = await nameOf(one, 1);
      await overall(one, 'waiting', 30_000);
      assert.equal(await one.locator('#overall').textContent(), 'reconnecting');
      await logs(one, name, /closed with 1012: the gateway restarts/, 30_000);
      const countdown = one.locator('#connections li').filter({ hasText: name });
      await countdown.filter({ hasText: /waiting, \d+ s/ }).waitFor();
      const text = unique('unsent');
      await sendInChat(one, 1, text);
      await becomes(async () => /^Not sent: /.test(await one.locator('#route').textContent()), true, 'the route');
      assert.equal(await person(one, 1).locator('input').inputValue(), text);
    });
    await checkOutage(one);
    await checkLost(one);
    await check('the gateway restarts: the page reconnects and messages flow', async () => {
      await sh(SERVER_START);
      for (const tab of tabs) await overall(tab, 'open', 60_000);
      outage = false;
      await logs(one, await nameOf(one, 1), 'messages may have been missed');
      await everywhere(await sendInChat(one, 1, unique('back')));
    });
    await checkReturn(one);
  } else {
    skip('a stop and a restart of the gateway', 'SERVER_STOP and SERVER_START are not set');
  }

  await check('no request to another origin', () => assert.deepEqual(foreign, []));
  await check('no console errors and no CSP violations', () => assert.deepEqual(pageErrors, []));

  await check('where WebSockets are refused the page uses server-sent events', async () => {
    const proxy = await blockingProxy(origin, {});
    const page = await browser.newPage();
    await page.goto(proxy.origin);
    await overall(page, 'open');
    await logs(page, await nameOf(page, 1), 'open, by server-sent events');
    await arrived(person(page, 2), await sendInChat(page, 1, unique('by events')));
    await page.close();
    await proxy.stop();
  });
});

async function checkRedis(browser, one, two) {
  await check('chat: a publication by redis-cli arrives in both tabs', async () => {
    const text = unique('redis');
    const [, channel] = /^redis-cli PUBLISH (\S+) Hello$/.exec(await one.locator('#chat-cli code').textContent());
    await redis('PUBLISH', channel, text);
    for (const tab of [one, two]) await arrived(person(tab, 2), text);
  });

  const key = unique('s').replace(/\W/g, '').padStart(32, '0');
  const session = `:1:django.contrib.sessions.cache${key}`;

  await check('Socket.IO: the line to copy reaches the official client', async () => {
    await one.locator('[data-fact="socketio-state"]').filter({ hasText: 'connected by WebSocket' }).waitFor();
    const line = await one.locator('#socketio-cli code').textContent();
    await sh(line.replace(/^redis-cli/, REDIS_CLI));
    await one.locator('#socketio-messages .entry').filter({ hasText: 'newsHello' }).waitFor();
  });

  await check('Socket.IO: bytes are shown by their number', async () => {
    const data = [[{ a: { _placeholder: true, num: 0 } }], 'AAE='];
    await redis('PUBLISH', 'socketio', JSON.stringify({ method: 'emit', event: 'raw', data, binary: true, namespace: '/' }));
    await one.locator('#socketio-messages .entry').filter({ hasText: 'raw{"a":"2 bytes"}' }).waitFor();
  });

  await check('who am I: a login in another tab is shown, and the session key stays secret', async () => {
    const content = { _auth_user_id: '7', 'ws4redis:username': 'john', 'ws4redis:memberof': ['staff', 'red team'] };
    await redis('SET', session, JSON.stringify(content), 'EX', '7300');
    await browser.addCookies([{ name: 'sessionid', value: key, url: origin, httpOnly: true }]);
    await one.getByRole('button', { name: 'Ask again' }).click();
    await becomes(() => fact(one, 'user'), 'john', 'user');
    assert.equal(await fact(one, 'groups'), 'staff and red team');
    assert.match(await fact(one, 'session'), /^yes; ends in 2 hours, /);
    assert.equal(await fact(one, 'known-by'), 'the cookie of a Django session');
    assert.match(
      await fact(one, 'channels'),
      /broadcast:foobar.*group:staff:foobar.*user:john:foobar.*session:…:foobar$/,
    );
    assert.ok(!(await one.content()).includes(key));
  });

  await check('who am I: only john receives a message for john', async () => {
    const lines = one.locator('#personal-cli code');
    const [, channel] = /^redis-cli PUBLISH (\S+) 'Only for john'$/.exec(await lines.textContent());
    const text = unique('john');
    await becomes(
      async () => {
        await redis('PUBLISH', channel, text);
        return (await texts(one.locator('#personal'))).includes(text);
      },
      true,
      'the messages of john',
    );
    assert.ok(!(await texts(two.locator('main'))).includes(text));
  });

  await check('who am I: the page detects the end of the session by 4401', async () => {
    await redis('DEL', session);
    await logs(one, 'You', 'closed with 4401: the session or token has ended');
    await becomes(() => fact(one, 'user'), 'anonymous', 'user');
    assert.equal(await one.locator('#personal').isVisible(), false);
    await overall(one, 'open');
    await browser.clearCookies();
  });
}
