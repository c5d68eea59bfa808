// The demo page's form for any address, and its snippets to copy.
import assert from 'node:assert/strict';
import { becomes, check, DEADLINE_MS, unique } from './chromium.mjs';
import { arrived, line, logs, say, texts } from './tour.mjs';

const pane = (page) => page.locator('#address');
const field = (page) => pane(page).locator('.send input');
const flag = (page, name) => pane(page).locator(`[name="${name}"]`);
const hint = (page) => pane(page).locator('.send-hint').textContent();

/** Runs `act` and returns the address of the WebSocket that the page then opens. */
async function reconnect(page, act) {
  const [socket] = await Promise.all([page.waitForEvent('websocket', { timeout: DEADLINE_MS }), act()]);
  await page.locator('#address .pane[data-state="open"]').waitFor({ timeout: DEADLINE_MS });
  return socket.url();
}

export async function facility(page, name) {
  return reconnect(page, async () => {
    await flag(page, 'facility').fill(name);
    await flag(page, 'facility').press('Enter');
  });
}

async function speak(page, text) {
  await field(page).fill(text);
  await field(page).press('Enter');
}

export async function checkAddress(one, two) {
  await check('any address: it connects when it is unfolded, to where the chat is', async () => {
    for (const tab of [one, two]) {
      const url = await reconnect(tab, () => pane(tab).locator('summary').click());
      assert.ok(url.endsWith('/foobar?subscribe-broadcast&publish-broadcast&echo'), url);
      assert.equal(await tab.locator('[name="which"]:checked').getAttribute('value'), 'address');
    }
    const text = unique('address');
    await arrived(pane(two), await say(one, 1, text));
    await speak(two, unique('back'));
    await arrived(one.locator('#people'), 'back');
  });

  await check('any address: a flag that changes reconnects with the new flags', async () => {
    const url = await reconnect(one, () => flag(one, 'publish-broadcast').uncheck());
    assert.ok(url.endsWith('foobar?subscribe-broadcast&echo'), url);
    assert.equal(await pane(one).locator('.uri code').textContent(), new URL(url).pathname + new URL(url).search);
    assert.match(await hint(one), /publish flag/);
    assert.equal(await field(one).getAttribute('readonly'), '');
    await reconnect(one, () => flag(one, 'publish-broadcast').check());
    assert.equal(await hint(one), '');
    assert.equal(await field(one).getAttribute('readonly'), null);
  });

  await check('any address: without echo it says that nothing will come back', async () => {
    const room = unique('silent');
    await facility(two, room);
    await facility(one, room);
    await reconnect(one, () => flag(one, 'echo').uncheck());
    const own = unique('own');
    const other = unique('other');
    await speak(one, own);
    await arrived(pane(two), own);
    assert.match(await hint(one), /echo is off/);
    await speak(two, other);
    await arrived(pane(one), other);
    assert.deepEqual(await texts(pane(one)), [other]);
    await reconnect(one, () => flag(one, 'echo').check());
  });

  await check('any address: flags of others keep an anonymous connection open, with a note', async () => {
    assert.match(await reconnect(two, () => flag(two, 'subscribe-user').check()), /subscribe-user/);
    assert.match(await pane(two).locator('.flag-hint').textContent(), /anonymous visitors get no such channel/);
    await reconnect(two, () => flag(two, 'subscribe-user').uncheck());
  });

  await check('any address: a facility is a room of its own, whatever its characters', async () => {
    for (const name of [unique('room'), `a b/${unique('ü?#%')}`, unique("it's:")]) {
      await facility(one, name);
      await facility(two, name);
      const inside = unique('inside');
      await say(one, 1, unique('outside'));
      await speak(one, inside);
      await arrived(pane(two), inside);
      assert.deepEqual(await texts(pane(two)), [inside]);
      assert.ok(!(await texts(one.locator('#people'))).includes(inside));
    }
    await flag(one, 'facility').fill('a/../b');
    assert.match(await pane(one).locator('.flag-hint').textContent(), /cannot be part of a facility/);
    assert.equal(await one.locator('.snippet').count(), 0);
  });

  await check('any address: markup and binary come as text, and the list is bounded', async () => {
    const room = unique('many');
    await facility(two, room);
    await speak(two, `<img src=x onerror="document.title='owned'"><b>${room}</b>`);
    await arrived(pane(two), room);
    assert.equal(await two.locator('.messages img, .messages .text b').count(), 0);
    assert.notEqual(await two.title(), 'owned');
    await two.evaluate(async (path) => {
      const sender = WS4Redis.connect(path, { publish: 'broadcast' });
      await new Promise((resolve) => sender.addEventListener('open', resolve));
      sender.send(new Uint8Array([255, 1, 98]));
      for (let i = 1; i <= 250; i += 1) sender.send(`no. ${i}`);
      sender.close();
    }, `/ws/${room}`);
    await becomes(() => pane(two).locator('.count').textContent(), '252, the last 200 kept', 'count');
    const wanted = Array.from({ length: 200 }, (_, i) => `no. ${i + 51}`);
    await becomes(() => texts(pane(two)), wanted, 'the last ones');
    await pane(two).getByRole('button', { name: 'Clear' }).click();
    assert.deepEqual(await texts(pane(two)), []);
    await two.evaluate(
      (path) => WS4Redis.connect(path, { publish: 'broadcast', queue: 1 }).send(new Uint8Array([255, 1, 98])),
      `/ws/${room}`,
    );
    await arrived(pane(two), 'ff 01 62 binary, 3 bytes');
  });

  await check('any address: Disconnect closes for good, Connect opens again', async () => {
    await facility(one, unique('toggled'));
    await pane(one).getByRole('button', { name: 'Disconnect' }).click();
    await logs(one, 'Address', 'closed with 1000');
    assert.match(await hint(one), /while the connection is open/);
    await reconnect(one, () => pane(one).getByRole('button', { name: 'Connect' }).click());
    assert.equal(await hint(one), '');
  });
}

export async function checkLines(one, two) {
  const start = await one
    .locator('meta[name="prefix"]')
    .getAttribute('content')
    .then((prefix) => prefix && `${prefix}:`);

  await check('lines: those of the chat are there first, with the real host and prefix', async () => {
    await one.locator('[name="which"][value="chat"]').check();
    assert.equal(await line(one, 'redis-publish').textContent(), `redis-cli PUBLISH ${start}broadcast:foobar Hello`);
    assert.match(await line(one, 'javascript').textContent(), /^const socket = WS4Redis\.connect\('\/ws\/foobar', \{/);
    const { port } = new URL(one.url());
    const nginx = await line(one, 'nginx').textContent();
    assert.match(nginx, /location \/ws\/ \{/);
    assert.match(nginx, new RegExp(`proxy_pass http://127\\.0\\.0\\.1:${port};`));
    for (const needed of ['proxy_http_version 1.1;', 'Upgrade $http_upgrade;', 'Host $host;'])
      assert.ok(nginx.includes(needed), nginx);
  });

  await check('lines: they follow facility and flags of the own address', async () => {
    await facility(one, 'news');
    assert.equal(await one.locator('[name="which"]:checked').getAttribute('value'), 'address');
    assert.equal(await line(one, 'redis-publish').textContent(), `redis-cli PUBLISH ${start}broadcast:news Hello`);
    assert.equal(await line(one, 'redis-setex').textContent(), `redis-cli SETEX ${start}broadcast:news 3600 Hello`);
    assert.equal(await line(one, 'redis-subscribe').textContent(), `redis-cli SUBSCRIBE ${start}broadcast:news`);
    const django = await line(one, 'django').textContent();
    assert.match(django, /RedisPublisher\(facility='news', broadcast=True\)/);
    assert.match(django, /publish_message\(RedisMessage\('Hello'\)\)/);
    await reconnect(one, () => flag(one, 'subscribe-group').check());
    assert.match(await line(one, 'django').textContent(), /broadcast=True, groups=\['GROUPNAME'\]\)/);
    const group = new RegExp(`\n.* ${start}group:GROUPNAME:news Hello$`);
    assert.match(await line(one, 'redis-publish').textContent(), group);
    await reconnect(one, () => flag(one, 'subscribe-group').uncheck());
    await facility(one, "it's new");
    assert.match(await line(one, 'redis-publish').textContent(), /broadcast:it'\\''s new' Hello$/);
    assert.match(await line(one, 'django').textContent(), /facility='it\\'s new'/);
  });

  await check('lines: the button copies, and says so', async () => {
    await one.bringToFront();
    await one.getByRole('button', { name: 'Copy redis-cli: to those connected now' }).click();
    const wanted = await line(one, 'redis-publish').textContent();
    await becomes(() => one.evaluate(() => navigator.clipboard.readText()), wanted, 'clipboard');
    const said = () => one.locator('#copied').textContent();
    await becomes(said, 'Copied: redis-cli: to those connected now', 'announcement');
  });

  await check('lines: the JavaScript runs', async () => {
    const room = unique('js');
    await facility(one, room);
    await facility(two, room);
    await one.evaluate(`{ ${await line(one, 'javascript').textContent()}; window.fromLines = socket; }`);
    await arrived(pane(two), 'Hello');
    await one.evaluate('fromLines.close()');
  });
}
