// The demo page in a real browser, against a running gateway:
//
//   node tests/browser/demo.mjs http://127.0.0.1:8000
//
// CHROMIUM            the browser, as chromium.mjs says
// REDIS_CLI_PUBLISH   a command to which channel and message are appended, e.g. `redis-cli -p 6379 PUBLISH`
// SERVER_STOP, SERVER_START   shell commands that end the gateway and start it again on the same address (the second
//                     one must return); with both set, the page's reconnecting is tested too
//
// Closes with the line `N passed, N failed`.
import assert from 'node:assert/strict';
import { becomes, check, DEADLINE_MS, sh, skip, unique, withChromium } from './chromium.mjs';

const WHOLE_RUN_MS = 180_000;

const base = process.argv[2];
if (!base) {
  console.error('usage: node demo.mjs http://HOST:PORT');
  process.exit(64);
}
const origin = new URL(base).origin;
const { REDIS_CLI_PUBLISH, SERVER_STOP, SERVER_START } = process.env;

// ---- Words for the page -----------------------------------------------------------------------

const pane = (page, number) => page.locator('.pane').nth(number - 1);
const field = (page, number) => pane(page, number).locator('.send input');
const flag = (page, number, name) => pane(page, number).locator(`[name="${name}"]`);
const arrived = (page, number, text) =>
  pane(page, number).locator('.messages .text').filter({ hasText: text }).first().waitFor({ timeout: DEADLINE_MS });
const texts = (page, number) => pane(page, number).locator('.messages .text').allTextContents();
const line = (page, name) => page.locator(`[data-name="${name}"] code`);

function state(page, number, wanted, timeout = DEADLINE_MS) {
  return page.locator(`.pane:nth-of-type(${number})[data-state="${wanted}"]`).waitFor({ timeout });
}

async function say(page, number, text) {
  await field(page, number).fill(text);
  await field(page, number).press('Enter');
}

/** Runs `act` and returns the address of the WebSocket that the page opens then. */
async function reconnect(page, number, act) {
  const [socket] = await Promise.all([page.waitForEvent('websocket', { timeout: DEADLINE_MS }), act()]);
  await state(page, number, 'open');
  return socket.url();
}

async function facility(page, number, name) {
  return reconnect(page, number, async () => {
    await flag(page, number, 'facility').fill(name);
    await flag(page, number, 'facility').press('Enter');
  });
}

// ---- The run ----------------------------------------------------------------------------------

const foreign = [];
const complaints = [];
let outage = false;

function watch(page) {
  page.setDefaultTimeout(DEADLINE_MS);
  page.on('pageerror', (error) => complaints.push(`uncaught: ${error.message}`));
  page.on('console', (message) => {
    if (!['error', 'warning'].includes(message.type())) return;
    // While the gateway is away the browser itself reports each attempt.
    if (outage && /WebSocket connection to/.test(message.text())) return;
    complaints.push(`console ${message.type()}: ${message.text()}`);
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
  await browser.exposeFunction('reportViolation', (text) => complaints.push(`CSP: ${text}`));
  await browser.addInitScript(() => {
    document.addEventListener('securitypolicyviolation', (event) =>
      window.reportViolation(`${event.violatedDirective} ${event.blockedURI}`),
    );
  });

  const one = browser.pages()[0] ?? (await browser.newPage());
  const two = await browser.newPage();
  const tabs = [one, two];
  tabs.forEach(watch);
  const everywhere = (text) => Promise.all(tabs.flatMap((tab) => [arrived(tab, 1, text), arrived(tab, 2, text)]));

  await check('the page opens in two tabs under a strict CSP', async () => {
    for (const tab of tabs) {
      const response = await tab.goto(`${origin}/`, { timeout: DEADLINE_MS });
      assert.equal(response.status(), 200);
      const policy = response.headers()['content-security-policy'] ?? '';
      assert.match(policy, /default-src 'self'/);
      assert.doesNotMatch(policy, /unsafe/);
    }
  });

  await check('both panes of both tabs show that they are open', async () => {
    for (const tab of tabs) {
      for (const number of [1, 2]) {
        await state(tab, number, 'open');
        assert.equal(await pane(tab, number).locator('.state-text').textContent(), 'open');
      }
    }
  });

  await check('the gateway has filled in the placeholders', async () => {
    const metas = await one.locator('meta[name]').evaluateAll((all) => all.map((meta) => meta.content));
    assert.ok(!metas.some((content) => content.includes('{{')), metas.join(' | '));
  });

  await check('a message sent with Enter arrives in both panes of both tabs', async () => {
    const text = unique('enter');
    await say(one, 1, text);
    await everywhere(text);
    assert.equal(await field(one, 1).inputValue(), '');
  });

  await check('a message sent with the button arrives in both panes of both tabs', async () => {
    const text = unique('button');
    await field(two, 2).fill(text);
    await pane(two, 2).getByRole('button', { name: 'Send' }).click();
    await everywhere(text);
  });

  await check('markup and other scripts arrive as text', async () => {
    for (const text of [
      `<img src=x onerror="document.title='owned'"><b>${unique('markup')}</b>`,
      `Grüße, 你好, 🦀 ${unique('unicode')}`,
    ]) {
      await say(two, 1, text);
      await everywhere(text);
    }
    assert.equal(await one.locator('.messages img, .messages b').count(), 0);
    assert.notEqual(await one.title(), 'owned');
  });

  await check('each arrival shows its time', async () => {
    const stamps = await pane(one, 1).locator('.messages time').allTextContents();
    assert.ok(stamps.length > 0);
    for (const stamp of stamps) assert.match(stamp, /^\d\d:\d\d:\d\d\.\d\d\d$/);
  });

  await check('changing a flag reconnects with the new flags', async () => {
    const url = await reconnect(one, 2, () => flag(one, 2, 'publish-broadcast').uncheck());
    assert.ok(url.endsWith('foobar?subscribe-broadcast&echo'), url);
    assert.equal(await pane(one, 2).locator('.uri code').textContent(), new URL(url).pathname + new URL(url).search);
  });

  await check('without a publish flag the field is disabled and says why', async () => {
    assert.equal(await field(one, 2).isDisabled(), true);
    assert.equal(await pane(one, 2).getByRole('button', { name: 'Send' }).isDisabled(), true);
    assert.match(await pane(one, 2).locator('.send-hint').textContent(), /publish flag/);
    const text = unique('listener');
    await say(one, 1, text);
    await arrived(one, 2, text);
  });

  await check('with the publish flag again the field is enabled', async () => {
    await reconnect(one, 2, () => flag(one, 2, 'publish-broadcast').check());
    assert.equal(await field(one, 2).isDisabled(), false);
    assert.equal(await pane(one, 2).locator('.send-hint').textContent(), '');
  });

  await check('without echo an own message does not come back', async () => {
    const url = await reconnect(two, 1, () => flag(two, 1, 'echo').uncheck());
    assert.ok(!url.includes('echo'), url);
    const own = unique('own');
    const other = unique('other');
    await say(two, 1, own);
    await arrived(one, 1, own);
    assert.match(await pane(two, 1).locator('.send-hint').textContent(), /echo is off/);
    await say(one, 1, other);
    await arrived(two, 1, other);
    assert.ok(!(await texts(two, 1)).includes(own));
    await reconnect(two, 1, () => flag(two, 1, 'echo').check());
  });

  await check('user, group and session flags keep an anonymous connection open, with a note', async () => {
    const url = await reconnect(two, 2, () => flag(two, 2, 'subscribe-user').check());
    assert.match(url, /subscribe-user/);
    assert.match(await pane(two, 2).locator('.flag-hint').textContent(), /Django login/);
    const text = unique('anonymous');
    await say(one, 1, text);
    await arrived(two, 2, text);
    await reconnect(two, 2, () => flag(two, 2, 'subscribe-user').uncheck());
  });

  await check('a facility is a room of its own, whatever its characters', async () => {
    for (const name of [unique('room'), `a b/${unique('ü?#%')}`, unique("it's:")]) {
      await facility(one, 2, name);
      await facility(two, 2, name);
      const outside = unique('outside');
      const inside = unique('inside');
      await say(one, 1, outside);
      await arrived(two, 1, outside);
      await say(one, 2, inside);
      await arrived(two, 2, inside);
      assert.ok(!(await texts(two, 2)).includes(outside));
      assert.ok(!(await texts(two, 1)).includes(inside));
    }
  });

  await check('the lines to copy follow facility, flags and prefix', async () => {
    const prefix = await one.locator('meta[name="prefix"]').getAttribute('content');
    const start = prefix ? `${prefix}:` : '';
    await facility(one, 2, 'news');
    assert.equal(await one.locator('[name="which"]:checked').getAttribute('value'), '1');
    assert.equal(await line(one, 'redis-publish').textContent(), `redis-cli PUBLISH ${start}broadcast:news Hello`);
    assert.equal(await line(one, 'redis-setex').textContent(), `redis-cli SETEX ${start}broadcast:news 3600 Hello`);
    assert.equal(await line(one, 'redis-subscribe').textContent(), `redis-cli SUBSCRIBE ${start}broadcast:news`);
    const django = await line(one, 'django').textContent();
    assert.match(django, /RedisPublisher\(facility='news', broadcast=True\)/);
    assert.match(django, /publish_message\(RedisMessage\('Hello'\)\)/);
    await reconnect(one, 2, () => flag(one, 2, 'subscribe-group').check());
    assert.match(await line(one, 'django').textContent(), /broadcast=True, groups=\['GROUPNAME'\]\)/);
    assert.match(
      await line(one, 'redis-publish').textContent(),
      new RegExp(`\n.* ${start}group:GROUPNAME:news Hello$`),
    );
    await reconnect(one, 2, () => flag(one, 2, 'subscribe-group').uncheck());
    await facility(one, 2, "it's new");
    assert.match(await line(one, 'redis-publish').textContent(), /broadcast:it'\\''s new' Hello$/);
    assert.match(await line(one, 'django').textContent(), /facility='it\\'s new'/);
  });

  await check('the copy button copies', async () => {
    await one.bringToFront();
    await one.locator('[data-name="redis-publish"] .copy').click();
    const wanted = await line(one, 'redis-publish').textContent();
    await becomes(() => one.evaluate(() => navigator.clipboard.readText()), wanted, 'clipboard');
    await becomes(
      () => one.locator('#copied').textContent(),
      'Copied: redis-cli: to those connected now',
      'announcement',
    );
  });

  await check('the JavaScript lines run', async () => {
    const room = unique('js');
    await facility(one, 2, room);
    await facility(two, 2, room);
    await one.evaluate(`{ ${await line(one, 'javascript').textContent()}; window.fromLines = socket; }`);
    await arrived(two, 2, 'Hello');
    await one.evaluate('fromLines.close()');
  });

  await check('the list is bounded', async () => {
    const room = unique('many');
    await facility(two, 2, room);
    await two.evaluate(
      (uri) => {
        const sender = new WS4Redis({
          uri,
          connected() {
            for (let i = 1; i <= 250; i += 1) sender.send_message(`no. ${i}`);
          },
        });
        window.many = sender;
      },
      (await two.evaluate(() => location.origin.replace('http', 'ws'))) +
        (await pane(two, 2).locator('.uri code').textContent()).replace('subscribe-broadcast&', ''),
    );
    await becomes(() => pane(two, 2).locator('.count').textContent(), '250, the last 200 kept', 'count');
    const wanted = Array.from({ length: 200 }, (_, i) => `no. ${i + 51}`);
    assert.deepEqual(await texts(two, 2), wanted);
    await two.evaluate(() => window.many.close());
    await pane(two, 2).getByRole('button', { name: 'Clear' }).click();
    assert.deepEqual(await texts(two, 2), []);
  });

  await check('Disconnect closes for good, Connect opens again', async () => {
    await pane(one, 1).getByRole('button', { name: 'Disconnect' }).click();
    await state(one, 1, 'closed');
    assert.equal(await field(one, 1).isDisabled(), true);
    assert.match(await pane(one, 1).locator('.send-hint').textContent(), /while the connection is open/);
    await reconnect(one, 1, () => pane(one, 1).getByRole('button', { name: 'Connect' }).click());
    assert.equal(await field(one, 1).isDisabled(), false);
  });

  if (REDIS_CLI_PUBLISH) {
    // The channel as the page prints it, so that the line and the gateway are held to each other.
    const channel = async () => {
      await one.locator('[name="which"][value="0"]').check();
      const [, found] = /^redis-cli PUBLISH (\S+) Hello$/.exec(await line(one, 'redis-publish').textContent());
      return found;
    };
    await check('a message published through Redis arrives in both tabs', async () => {
      const text = unique('redis');
      await sh(`${REDIS_CLI_PUBLISH} "$1" "$2"`, await channel(), text);
      for (const tab of tabs) await arrived(tab, 1, text);
    });
    await check('a binary message shows as hex', async () => {
      await sh(`${REDIS_CLI_PUBLISH} "$1" "$(printf '\\377\\001binary')"`, await channel());
      for (const tab of tabs) await arrived(tab, 1, 'ff 01 62 69 6e 61 72 79 binary, 8 bytes');
    });
  } else {
    skip('a message published through Redis', 'REDIS_CLI_PUBLISH is not set');
  }

  await check('every control has a name, and changes of state are announced politely', async () => {
    const nameless = await one
      .locator('input, button')
      .evaluateAll((all) =>
        all
          .filter(
            (control) =>
              !(
                control.getAttribute('aria-label') ||
                control.textContent.trim() ||
                [...(control.labels ?? [])].some((label) => label.textContent.trim())
              ),
          )
          .map((control) => control.outerHTML),
      );
    assert.deepEqual(nameless, []);
    assert.equal(await one.locator('.pane .messages[role="log"][aria-label]').count(), 2);
    assert.match(await pane(one, 1).locator('[role="status"].said').textContent(), /^Connection 1: open/);
  });

  await check('everything can be reached by keyboard', async () => {
    await one.evaluate(() => document.activeElement?.blur());
    const reached = new Set();
    for (let i = 0; i < 80; i += 1) {
      await one.keyboard.press('Tab');
      reached.add(
        await one.evaluate(() => {
          const now = document.activeElement;
          const place = now.closest('.pane')?.getAttribute('aria-labelledby') ?? '';
          return `${place} ${now.name || now.className || now.tagName}`.trim();
        }),
      );
    }
    for (const wanted of [
      'pane-0 facility',
      'pane-0 publish-session',
      'pane-0 echo',
      'pane-0 message',
      'pane-1 message',
      'pane-1 messages',
      'copy quiet',
    ]) {
      assert.ok(reached.has(wanted), `${wanted} was not reached: ${[...reached].join(', ')}`);
    }
  });

  await check('dark and light differ', async () => {
    const colours = [];
    for (const colorScheme of ['light', 'dark']) {
      await one.emulateMedia({ colorScheme });
      colours.push(await one.evaluate(() => getComputedStyle(document.body).backgroundColor));
    }
    assert.notEqual(colours[0], colours[1]);
    await one.emulateMedia({ colorScheme: null });
  });

  await check('phone width has no horizontal scroll', async () => {
    const text = unique('w'.repeat(300));
    await facility(two, 1, unique('f'.repeat(120)));
    await facility(two, 2, await flag(two, 1, 'facility').inputValue());
    await say(two, 1, text);
    await arrived(two, 2, text);
    for (const width of [360, 320, 700]) {
      await two.setViewportSize({ width, height: 740 });
      const wide = await two.evaluate(() => document.documentElement.scrollWidth);
      assert.ok(wide <= width, `${wide} px of content at ${width} px`);
    }
  });

  if (SERVER_STOP && SERVER_START) {
    await check('the gateway goes away: the page says when it will try again, and why', async () => {
      outage = true;
      await sh(SERVER_STOP);
      await state(one, 1, 'waiting', 30_000);
      assert.match(await pane(one, 1).locator('.state-text').textContent(), /^reconnecting in \d+ s$/);
      assert.match(await pane(one, 1).locator('.since').textContent(), /^Last close: \d{4} \(/);
      assert.equal(await field(one, 1).isDisabled(), true);
    });
    await check('the gateway comes back: the page reconnects and messages flow', async () => {
      await sh(SERVER_START);
      for (const tab of tabs) for (const number of [1, 2]) await state(tab, number, 'open', 45_000);
      outage = false;
      await facility(two, 1, 'foobar');
      const text = unique('back');
      await say(one, 1, text);
      await arrived(two, 1, text);
    });
  } else {
    skip('the gateway goes away and comes back', 'SERVER_STOP and SERVER_START are not set');
  }

  await check('no request to another origin', () => assert.deepEqual(foreign, []));
  await check('no console errors and no CSP violations', () => assert.deepEqual(complaints, []));
});
