// Each recipe of docs/recipes.md in Chromium, before and after a restart of the gateway:
//
//   node tests/recipes/recipes.mjs https://localhost:17797
//
// SERVER_STOP, SERVER_START   commands that stop and start the gateway
// PROXY_LOG                   nginx's log of the gateway's address
// MANAGE                      manage.py of the site
// VITE                        origin of Vite's development server
//
// The last line is `N passed, N failed`.
import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { launch } from '../browser/browsers.mjs';
import { becomes, check, DEADLINE_MS, sh, unique, wholeRun } from '../browser/checks.mjs';

const WHOLE_RUN_MS = 200_000;
// After a restart htmx waits up to 16 s.
const RECONNECT_MS = 40_000;
const ROOM = 'lobby';
const [origin] = process.argv.slice(2);

/** Pages with the live table, each of one library. */
const TABLES = {
  plain: 'the table without a library',
  'htmx-sse': "htmx's sse extension swaps the table in",
  'htmx-nudge': "htmx's sse extension fetches the table",
  'htmx-parts': "htmx's sse extension swaps parts in by the names of events",
  'htmx-ws': "htmx's ws extension swaps out of band",
  htmx: 'htmx 2 swaps out of band by our client',
  htmx4: 'htmx 4 swaps out of band by our client',
  turbo: '<turbo-stream-source>',
  'turbo-ws': 'Turbo with our client',
  alpine: 'Alpine shows the table',
  unpoly: 'Unpoly renders the table',
  idiomorph: 'Idiomorph morphs the table',
  datastar: 'Datastar patches the table',
};
/** Pages that show the chat. The first ones get what was said while the gateway was away. */
const COMPLETE_CHATS = {
  [`/chat/${ROOM}/`]: 'the chat with the history of the model',
  [`/chat/${ROOM}/kept/`]: 'the chat with the history of the gateway',
  [`/chat/${ROOM}/web/react/`]: 'the chat in React',
  [`/chat/${ROOM}/web/vue/`]: 'the chat in Vue',
  [`${process.env.VITE}/react.html`]: "the chat in React from Vite's development server",
};
const CHATS = {
  [`/chat/${ROOM}/web/react-use-websocket/`]: 'react-use-websocket',
  [`/chat/${ROOM}/web/vueuse/`]: 'VueUse',
  [`/chat/${ROOM}/web/rxjs/`]: 'RxJS',
  [`/chat/${ROOM}/web/partysocket/`]: 'partysocket',
  [`/chat/${ROOM}/web/reconnecting-websocket/`]: 'reconnecting-websocket',
  [`/chat/${ROOM}/web/fetch-event-source/`]: 'fetch-event-source',
};

const textOf = (page, selector) => page.$eval(selector, ({ textContent }) => textContent.trim());
const listOf = (page) => page.$$eval('li', (items) => items.map(({ textContent }) => textContent));
/** The request of a form, by script: each page stays where it is. */
const submit = (page, action, values = {}) =>
  page.evaluate(
    async (action, values) => {
      const body = new FormData(document.querySelector(`form[action="${action}"]`));
      for (const [name, value] of Object.entries(values)) body.set(name, value);
      const { status } = await fetch(action, { method: 'POST', body });
      return status;
    },
    action,
    values,
  );

async function logIn(context, username, password = 'secret') {
  const page = await context.newPage();
  await page.goto(`${origin}/login/`);
  await page.$eval('[name=username]', (field, value) => (field.value = value), username);
  await page.$eval('[name=password]', (field, value) => (field.value = value), password);
  await Promise.all([page.waitForNavigation(), page.$eval('button', (button) => button.click())]);
  return page;
}

await wholeRun(WHOLE_RUN_MS, async (atEnd) => {
  const browser = await launch('chromium', [], 443);
  atEnd.push(() => browser.close());
  const visitor = async (username) => {
    const context = await browser.createBrowserContext();
    if (username) await (await logIn(context, username)).close();
    return async (path) => {
      const page = await context.newPage();
      page.setDefaultTimeout(DEADLINE_MS);
      page.on('pageerror', (error) => console.log(`      ${path}: ${error.message}`));
      await page.goto(new URL(path, origin).href);
      return page;
    };
  };
  const [john, mary, admin, stranger] = await Promise.all(['john', 'mary', 'admin', null].map(visitor));
  const open = async (visit, paths) =>
    Object.fromEntries(await Promise.all(paths.map(async (path) => [path, await visit(path)])));

  const tables = await open(stranger, Object.keys(TABLES).map((name) => `/items/${name}/`));
  const chats = await open(john, Object.keys({ ...COMPLETE_CHATS, ...CHATS }));
  const [inbox, alpine, wave] = [await john('/notifications/'), await john('/notifications/alpine/'), await mary('/notifications/')];
  const [ops, secret] = [await admin('/ops/'), await john('/ops/')];
  const progress = await john('/progress/');
  const maryChat = await mary(`/chat/${ROOM}/`);
  const clerk = await admin('/items/plain/');

  const add = async (name) => assert.equal(await submit(clerk, '/items/add/', { name, stock: '1' }), 204);
  const say = async (text) => assert.equal(await submit(maryChat, `/chat/${ROOM}/say/`, { text }), 204);
  const showsItem = (page, name, deadline) =>
    becomes(async () => (await textOf(page, '#items')).includes(name), true, name, deadline);
  const showsLine = (page, text, deadline) =>
    becomes(async () => (await listOf(page)).filter((line) => line === `mary: ${text}`).length, 1, text, deadline);

  async function failToLogIn() {
    const username = unique('intruder');
    const page = await stranger('/login/');
    await page.evaluate(async (username) => {
      const body = new FormData(document.querySelector('form'));
      body.set('username', username);
      body.set('password', 'wrong');
      await fetch('/login/', { method: 'POST', body });
    }, username);
    await page.close();
    return username;
  }

  /** Publishes until each page has shown something: those of other libraries do not say that they are connected. */
  async function allConnected(pages, shows, publish, deadline) {
    const waiting = new Map(Object.entries(pages));
    for (const end = Date.now() + deadline; waiting.size > 0 && Date.now() < end; ) {
      const text = unique('x');
      await publish(text);
      await Promise.all(
        [...waiting].map(([path, page]) => shows(page, text, 500).then(() => waiting.delete(path), () => {})),
      );
    }
    return [...waiting.keys()];
  }

  async function round(when, deadline) {
    const late = [
      ...(await allConnected(tables, showsItem, add, deadline)),
      ...(await allConnected(chats, showsLine, say, deadline)),
    ];
    const [name, text] = [unique('item'), unique('Grüße <b>')];
    await add(name);
    await say(text);
    for (const [library, title] of Object.entries(TABLES))
      await check(`${title}${when}`, async () => {
        assert.ok(!late.includes(`/items/${library}/`), 'it does not receive');
        await showsItem(tables[`/items/${library}/`], name);
      });
    for (const [path, title] of Object.entries({ ...COMPLETE_CHATS, ...CHATS }))
      await check(`${title}${when}`, async () => {
        assert.ok(!late.includes(path), 'it does not receive');
        await showsLine(chats[path], text);
      });
    await check(`an event with data is swapped in${when}`, async () => {
      const page = tables['/items/htmx-parts/'];
      const rows = await page.$$eval('#items tr', ({ length }) => String(length));
      await becomes(() => textOf(page, '#count'), rows, 'the count');
    });
    await check(`notifications from a view, a task and a signal${when}`, async () => {
      const badges = (count) =>
        Promise.all([inbox, alpine].map((page) => becomes(() => textOf(page, '#badge'), String(count), 'the badge')));
      assert.equal(await submit(inbox, '/notifications/read/'), 204);
      await badges(0);
      assert.equal(await submit(wave, '/notifications/wave/john/'), 204);
      await badges(1);
      assert.equal(await submit(inbox, '/notifications/export/'), 204);
      await badges(2);
      await logIn(await browser.createBrowserContext(), 'john');
      await badges(3);
      assert.equal(await textOf(wave, '#badge'), '1', 'another user has a count of their own');
    });
    await check(`only the staff sees failed logins${when}`, async () => {
      await becomes(() => secret.$eval('body', ({ dataset }) => dataset.state), 'open', 'the socket', RECONNECT_MS);
      const username = await failToLogIn();
      await becomes(async () => (await listOf(ops)).at(-1), username, 'the line');
      assert.deepEqual(await listOf(secret), []);
    });
  }

  await round('', DEADLINE_MS);

  const bar = () => progress.$eval('#bar', ({ value, max }) => value / max);
  await progress.$eval('[name=total]', (field) => (field.value = 60));
  await progress.$eval('#start button', (button) => button.click());
  await check('a progress bar shows a task', () => becomes(async () => (await bar()) > 0, true, 'the bar'));
  // The gateway stops while the task runs.
  await sh(process.env.SERVER_STOP);
  const missed = [unique('missed'), unique('missed')];
  for (const text of missed) {
    await add(text);
    await say(text);
  }
  // nginx answers an EventSource with 13 bytes, and others with 502.
  const attempts = () => readFileSync(process.env.PROXY_LOG, 'utf8').match(/ (502|200 13) /g)?.length ?? 0;
  const most = Object.keys({ ...tables, ...chats }).length;
  await becomes(() => attempts() >= most, true, 'attempts to connect meanwhile', RECONNECT_MS);
  await sh(process.env.SERVER_START);
  await check('a progress bar ends after a restart of the gateway', () => becomes(bar, 1, 'the bar', RECONNECT_MS));
  for (const [library, title] of Object.entries(TABLES))
    await check(`${title}: what changed during the restart`, () =>
      showsItem(tables[`/items/${library}/`], missed[1], RECONNECT_MS),
    );
  for (const [path, title] of Object.entries(COMPLETE_CHATS))
    await check(`${title}: what was said during the restart`, async () => {
      for (const text of missed) await showsLine(chats[path], text, RECONNECT_MS);
    });

  await round(', after a restart of the gateway', RECONNECT_MS);

  await check('an open page loses the channel of the staff with its user', async () => {
    const change = `from django.contrib.auth.models import User
for user in User.objects.filter(username__in=["admin", "john"]):
    user.is_staff = not user.is_staff
    user.save()`;
    await sh(`${process.env.MANAGE} shell -c "$1"`, change);
    // A login may fail before the gateway has given the channel to the other user.
    await becomes(async () => {
      const username = await failToLogIn();
      return becomes(async () => (await listOf(secret)).at(-1), username, 'the line', 500).then(() => true, () => false);
    }, true, 'the channel of the new staff');
    const username = await failToLogIn();
    await becomes(async () => (await listOf(secret)).at(-1), username, 'the line');
    assert.ok(!(await listOf(ops)).includes(username), 'the former staff has received it');
  });
});
