// The demo page's form for any address, and its snippets to copy.
import assert from 'node:assert/strict';
import { becomes, check, DEADLINE_MS, unique } from './chromium.mjs';
import { arrived, snippet, logs, sendInChat, texts } from './tour.mjs';

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

export async function setFacility(page, name) {
  return reconnect(page, async () => {
    await flag(page, 'facility').fill(name);
    await flag(page, 'facility').press('Enter');
  });
}

async function sendFromForm(page, text) {
  await field(page).fill(text);
  await field(page).press('Enter');
}

export async function checkAddress(one, two) {
  await check('any address: opening the section connects to the address of the chat', async () => {
    for (const tab of [one, two]) {
      const url = await reconnect(tab, () => pane(tab).locator('summary').click());
      assert.ok(url.endsWith('/foobar?subscribe-broadcast&publish-broadcast&echo'), url);
      assert.equal(await tab.locator('[name="which"]:checked').getAttribute('value'), 'address');
    }
    const text = unique('address');
    await arrived(pane(two), await sendInChat(one, 1, text));
    await sendFromForm(two, unique('back'));
    await arrived(one.locator('#people'), 'back');
  });

  await check('any address: a changed flag reconnects with the new flags', async () => {
    const url = await reconnect(one, () => flag(one, 'publish-broadcast').uncheck());
    assert.ok(url.endsWith('foobar?subscribe-broadcast&echo'), url);
    assert.equal(await pane(one).locator('.uri code').textContent(), new URL(url).pathname + new URL(url).search);
    assert.match(await hint(one), /publish flag/);
    assert.equal(await field(one).getAttribute('readonly'), '');
    await reconnect(one, () => flag(one, 'publish-broadcast').check());
    assert.equal(await hint(one), '');
    assert.equal(await field(one).getAttribute('readonly'), null);
  });

  await check('any address: without echo a hint says that own messages do not return', async () => {
    const facility = unique('silent');
    await setFacility(two, facility);
    await setFacility(one, facility);
    await reconnect(one, () => flag(one, 'echo').uncheck());
    const own = unique('own');
    const other = unique('other');
    await sendFromForm(one, own);
    await arrived(pane(two), own);
    assert.match(await hint(one), /echo is off/);
    await sendFromForm(two, other);
    await arrived(pane(one), other);
    assert.deepEqual(await texts(pane(one)), [other]);
    await reconnect(one, () => flag(one, 'echo').check());
  });

  await check('any address: flags that need an identity keep an anonymous connection open, with a hint', async () => {
    assert.match(await reconnect(two, () => flag(two, 'subscribe-user').check()), /subscribe-user/);
    assert.match(await pane(two).locator('.flag-hint').textContent(), /anonymous visitors get no such channel/);
    await reconnect(two, () => flag(two, 'subscribe-user').uncheck());
  });

  await check('any address: facilities are separate, whatever their characters', async () => {
    for (const name of [unique('facility'), `a b/${unique('ü?#%')}`, unique("it's:")]) {
      await setFacility(one, name);
      await setFacility(two, name);
      const inside = unique('inside');
      await sendInChat(one, 1, unique('outside'));
      await sendFromForm(one, inside);
      await arrived(pane(two), inside);
      assert.deepEqual(await texts(pane(two)), [inside]);
      assert.ok(!(await texts(one.locator('#people'))).includes(inside));
    }
    await flag(one, 'facility').fill('a/../b');
    assert.match(await pane(one).locator('.flag-hint').textContent(), /cannot be part of a facility/);
    assert.equal(await one.locator('.snippet').count(), 0);
  });

  await check('any address: markup and binary are shown as text, and the list is bounded', async () => {
    const facility = unique('many');
    await setFacility(two, facility);
    await sendFromForm(two, `<img src=x onerror="document.title='owned'"><b>${facility}</b>`);
    await arrived(pane(two), facility);
    assert.equal(await two.locator('.messages img, .messages .text b').count(), 0);
    assert.notEqual(await two.title(), 'owned');
    await two.evaluate(async (path) => {
      const sender = WS4Redis.connect(path, { publish: 'broadcast' });
      await new Promise((resolve) => sender.addEventListener('open', resolve));
      sender.send(new Uint8Array([255, 1, 98]));
      for (let i = 1; i <= 250; i += 1) sender.send(`no. ${i}`);
      sender.close();
    }, `/ws/${facility}`);
    await becomes(() => pane(two).locator('.count').textContent(), '252, the last 200 kept', 'count');
    const wanted = Array.from({ length: 200 }, (_, i) => `no. ${i + 51}`);
    await becomes(() => texts(pane(two)), wanted, 'the last ones');
    await pane(two).getByRole('button', { name: 'Clear' }).click();
    assert.deepEqual(await texts(pane(two)), []);
    await two.evaluate(
      (path) => WS4Redis.connect(path, { publish: 'broadcast', queue: 1 }).send(new Uint8Array([255, 1, 98])),
      `/ws/${facility}`,
    );
    await arrived(pane(two), 'ff 01 62 binary, 3 bytes');
  });

  await check('any address: Disconnect closes for good, Connect opens again', async () => {
    await setFacility(one, unique('toggled'));
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

  await check('snippets: at first those of the chat, with the real host and prefix', async () => {
    await one.locator('[name="which"][value="chat"]').check();
    assert.equal(await snippet(one, 'redis-publish').textContent(), `redis-cli PUBLISH ${start}broadcast:foobar Hello`);
    assert.match(await snippet(one, 'javascript').textContent(), /^const socket = WS4Redis\.connect\('\/ws\/foobar', \{/);
    const { port } = new URL(one.url());
    const nginx = await snippet(one, 'nginx').textContent();
    assert.match(nginx, /location \/ws\/ \{/);
    assert.match(nginx, /location \/socket\.io\/ \{/);
    assert.match(nginx, new RegExp(`proxy_pass http://127\\.0\\.0\\.1:${port};`));
    for (const needed of ['proxy_http_version 1.1;', 'Upgrade $http_upgrade;', 'Host $http_host;'])
      assert.ok(nginx.includes(needed), nginx);
  });

  await check('snippets: they follow facility and flags of the own address', async () => {
    await setFacility(one, 'news');
    assert.equal(await one.locator('[name="which"]:checked').getAttribute('value'), 'address');
    assert.equal(await snippet(one, 'redis-publish').textContent(), `redis-cli PUBLISH ${start}broadcast:news Hello`);
    assert.equal(await snippet(one, 'redis-setex').textContent(), `redis-cli SETEX ${start}broadcast:news 3600 Hello`);
    assert.equal(await snippet(one, 'redis-subscribe').textContent(), `redis-cli SUBSCRIBE ${start}broadcast:news`);
    const django = await snippet(one, 'django').textContent();
    assert.match(django, /RedisPublisher\(facility='news', broadcast=True\)/);
    assert.match(django, /publish_message\(RedisMessage\('Hello'\)\)/);
    await reconnect(one, () => flag(one, 'subscribe-group').check());
    assert.match(await snippet(one, 'django').textContent(), /broadcast=True, groups=\['GROUPNAME'\]\)/);
    const group = new RegExp(`\n.* ${start}group:GROUPNAME:news Hello$`);
    assert.match(await snippet(one, 'redis-publish').textContent(), group);
    await reconnect(one, () => flag(one, 'subscribe-group').uncheck());
    await setFacility(one, "it's new");
    assert.match(await snippet(one, 'redis-publish').textContent(), /broadcast:it'\\''s new' Hello$/);
    assert.match(await snippet(one, 'django').textContent(), /facility='it\\'s new'/);
  });

  await check('snippets: the button copies, with an announcement', async () => {
    await one.bringToFront();
    await one.getByRole('button', { name: 'Copy redis-cli: to those connected now' }).click();
    const wanted = await snippet(one, 'redis-publish').textContent();
    await becomes(() => one.evaluate(() => navigator.clipboard.readText()), wanted, 'clipboard');
    const announcement = () => one.locator('#copied').textContent();
    await becomes(announcement, 'Copied: redis-cli: to those connected now', 'announcement');
  });

  await check('snippets: the JavaScript runs', async () => {
    const facility = unique('js');
    await setFacility(one, facility);
    await setFacility(two, facility);
    await one.evaluate(`{ ${await snippet(one, 'javascript').textContent()}; window.fromLines = socket; }`);
    await arrived(pane(two), 'Hello');
    await one.evaluate('fromLines.close()');
  });
}
