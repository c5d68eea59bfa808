// The chat of the tutorial in Chromium, in each form of the site:
//
//   ANNOUNCE='python manage.py announce' node tests/channels/tutorial.mjs ORIGIN
//
// The last line is `N passed, N failed`.
import assert from 'node:assert/strict';
import { launch } from '../browser/browsers.mjs';
import { becomes, check, DEADLINE_MS, sh, unique, wholeRun } from '../browser/checks.mjs';

const WHOLE_RUN_MS = 90_000;
const PASSWORD = 'secret';
// Primary keys of the chats, as make_people creates them.
const KITCHEN = 1;
const GARDEN = 2;

const [origin] = process.argv.slice(2);

const announceByTask = (text) => sh(`${process.env.ANNOUNCE} "$1"`, text);
const announce = (text) => fetch(`${origin}/api/announcements/`, { method: 'POST', body: new URLSearchParams({ text }) });
const valueOf = (page, id) => () => page.$eval(`#${id}`, ({ value }) => value);
const logOf = (page) => () => page.$$eval('#log li', (items) => items.map((item) => item.textContent));

async function visitor(browser) {
  const context = await browser.createBrowserContext();
  const page = await context.newPage();
  page.setDefaultTimeout(DEADLINE_MS);
  page.on('pageerror', (error) => console.log(`      in the page: ${error.message}`));
  await page.goto(origin);
  await becomes(valueOf(page, 'state'), 'open', 'the socket');
  return page;
}

async function fill(page, values) {
  for (const [name, value] of Object.entries(values))
    await page.$eval(`[name=${name}]`, (input, value) => (input.value = value), String(value));
}

/** Clicks by script: a tab in the background draws nothing, and drivers would wait for that. */
const press = (page, selector) => page.$eval(selector, (button) => button.click());

async function logIn(page, username) {
  await fill(page, { username, password: PASSWORD });
  await press(page, '#login button');
  await becomes(valueOf(page, 'user'), username, 'the login');
}

async function say(page, chat, text) {
  await fill(page, { chat, text });
  await press(page, '#say button');
}

/** Waits until each page has received the text last. */
async function allReceive(pages, line) {
  for (const page of pages) await becomes(async () => (await logOf(page)()).at(-1), line, 'the last message');
}

/** Everybody receives an announcement, so that whatever was sent before it has arrived, too. */
async function expectNot(pages, everybody, line) {
  const text = unique('announcement');
  await announce(text);
  await allReceive(everybody, `site: ${text}`);
  for (const page of pages) assert.ok(!(await logOf(page)()).includes(line), `${line} arrived`);
}

await wholeRun(WHOLE_RUN_MS, async (atEnd) => {
  const browser = await launch('chromium', ['site.example.com'], new URL(origin).port);
  atEnd.push(() => browser.close());
  const [john, mary, stranger] = [await visitor(browser), await visitor(browser), await visitor(browser)];
  const everybody = [john, mary, stranger];

  await check('everybody hears an announcement that a task sends', async () => {
    const text = unique('Grüße & <b>');
    await announceByTask(text);
    await allReceive(everybody, `site: ${text}`);
  });

  await check('after a login in the open page, the members of a chat hear it, and no others', async () => {
    await logIn(john, 'john');
    await logIn(mary, 'mary');
    for (const [page, author] of [[john, 'john'], [mary, 'mary'], [john, 'john']]) {
      const text = unique('to the kitchen');
      await say(page, KITCHEN, text);
      await allReceive([john, mary], `${author}: ${text}`);
      await expectNot([stranger], everybody, `${author}: ${text}`);
    }
    const text = unique('to the garden');
    await say(john, GARDEN, text);
    await allReceive([john], `john: ${text}`);
    await expectNot([mary, stranger], everybody, `john: ${text}`);
  });

  await check('a new member of a chat hears it in open tabs, and a former member does not', async () => {
    const tab = await mary.browserContext().newPage();
    await tab.goto(origin);
    await becomes(valueOf(tab, 'state'), 'open', 'the socket of another tab');
    // Its socket belongs to mary once it hears her chat.
    let text = '';
    await becomes(async () => {
      await say(john, KITCHEN, (text = unique('is mary there')));
      await allReceive([john, mary], `john: ${text}`);
      return (await logOf(tab)()).some((line) => line.startsWith('john: is mary there'));
    }, true, 'the other tab');

    await fill(mary, { chat: GARDEN });
    await press(mary, '#join');
    await becomes(async () => {
      await say(john, GARDEN, (text = unique('flowers')));
      await allReceive([john], `john: ${text}`);
      return (await logOf(mary)()).some((line) => line.startsWith('john: flowers'));
    }, true, 'the new member');
    await say(john, GARDEN, (text = unique('for both')));
    await allReceive([john, mary, tab], `john: ${text}`);
    await expectNot([stranger], everybody, `john: ${text}`);

    await press(mary, '#leave');
    await becomes(async () => {
      await say(john, GARDEN, (text = unique('secret')));
      await allReceive([john], `john: ${text}`);
      const marker = unique('announcement');
      await announce(marker);
      await allReceive([john, mary, tab], `site: ${marker}`);
      return (await logOf(mary)()).includes(`john: ${text}`);
    }, false, 'the former member');
    await tab.close();
  });

  await check('after a logout the page hears announcements only', async () => {
    await press(john, '#logout');
    await becomes(valueOf(john, 'user'), '', 'the logout');
    await becomes(valueOf(john, 'state'), 'open', 'the socket');
    const text = unique('without john');
    await say(mary, KITCHEN, text);
    await allReceive([mary], `mary: ${text}`);
    await expectNot([john, stranger], everybody, `mary: ${text}`);
  });
});
