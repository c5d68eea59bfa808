// The section "One socket for a page" of the demo page, without and with rules for its facilities.
import assert from 'node:assert/strict';
import { writeFileSync } from 'node:fs';
import { becomes, check, sh, unique } from './chromium.mjs';
import { fact, logs } from './tour.mjs';

const pane = (page, facility) =>
  page.locator('#facilities .person').filter({ has: page.locator('h3', { hasText: facility }) });
/** The entries without their times. */
const entries = (page, facility) => async () => {
  const all = await pane(page, facility).locator('.entry').allTextContents();
  return all.map((text) => text.replace(/^[\d:.]+/, ''));
};
const since = (page, facility, text) => async () => {
  const all = await entries(page, facility)();
  return all.slice(all.findIndex((entry) => entry.startsWith(text)) + 1);
};
const kinds = (page) => page.locator('#facilities h3').allTextContents();
const isOpen = (page) => becomes(() => fact(page, 'one-socket'), 'open: two facilities', 'the socket');

async function publish(page, text) {
  await page.locator('#to-both-text').fill(text);
  await page.getByRole('button', { name: 'Publish to both' }).click();
  const sent = 'Redis has it in foobar-history and foobar-plain.';
  await becomes(() => page.locator('#one-socket-sent').textContent(), sent, 'the outcome');
}

/** Publishes in the other tab while the line of this one is cut, with the keyboard. Returns the first text, sent before. */
async function missTwo(one, two) {
  const before = unique('before');
  await publish(one, before);
  for (const facility of ['foobar-history', 'foobar-plain'])
    await becomes(async () => (await entries(one, facility)()).at(-1), before, facility);
  await one.locator('#cut').focus();
  await one.keyboard.press('Space');
  await becomes(() => fact(one, 'one-socket'), 'cut', 'the socket');
  await logs(one, 'One socket', 'closed with');
  await publish(two, 'first');
  await publish(two, 'second');
  await one.locator('#to-both-text').fill('third');
  await one.keyboard.press('Enter');
  const sent = 'Not sent: the line is cut. Publish in the second tab.';
  await becomes(() => one.locator('#one-socket-sent').textContent(), sent, 'the outcome');
  assert.deepEqual(await since(one, 'foobar-history', before)(), []);
  await one.locator('#cut').focus();
  await one.keyboard.press('Space');
  await isOpen(one);
  return before;
}

const GAP = ['gap:messages may have been missed', 'secondthe last value'];

/** For a gateway without rules. Writes the settings that the page shows to a file, if one is named. */
export async function checkOneSocket(one, two, file) {
  await check('one socket: without rules the page shows the settings to add', async () => {
    for (const tab of [one, two]) await isOpen(tab);
    await becomes(() => kinds(one), ['foobar-history without a history', 'foobar-plain without a history'], 'kinds');
    await becomes(() => fact(one, 'here'), 'not known: see the settings below', 'the visitors');
    assert.equal(await one.locator('#one-socket-missing').textContent(), 'no history and no presence');
    const settings = await one.locator('#one-socket-settings code').textContent();
    assert.match(settings, /^\[\[history]]\nfacility.*\[\[presence]]\nfacility.*\[\[access]]\nfacility/s);
    if (file) writeFileSync(file, settings);
  });

  await check('one socket: each facility without a history has a gap after the line was cut', async () => {
    const before = await missTwo(one, two);
    for (const facility of ['foobar-history', 'foobar-plain'])
      await becomes(since(one, facility, before), GAP, facility);
  });
}

/** For a gateway with the rules that the page shows. `cli` runs a command line of ws4redis, `redis` one of redis-cli. */
export async function checkWithRules(browser, one, two, cli, redis) {
  await check('one socket: with rules the page shows no settings, and counts its visitors', async () => {
    for (const tab of [one, two]) await isOpen(tab);
    await becomes(() => kinds(one), ['foobar-history with a history', 'foobar-plain without a history'], 'kinds');
    assert.equal(await one.locator('#one-socket-off').isVisible(), false);
    for (const tab of [one, two]) await becomes(() => fact(tab, 'here'), '2 anonymous visitors', 'the visitors');
  });

  await check('one socket: a history recovers what was sent while the line was cut, and the other has a gap', async () => {
    const before = await missTwo(one, two);
    await becomes(since(one, 'foobar-plain', before), GAP, 'without a history');
    const wanted = ['firstrecovered', 'secondrecovered', 'recovered:2 messages sent meanwhile'];
    await becomes(since(one, 'foobar-history', before), wanted, 'with a history');
  });

  await check('one socket: a line that was cut without messages recovers none', async () => {
    const before = unique('quiet');
    await publish(one, before);
    await becomes(async () => (await entries(one, 'foobar-history')()).at(-1), before, 'the message');
    await one.locator('#cut').check();
    await becomes(() => fact(two, 'here'), '1 anonymous visitor', 'the visitors');
    await one.locator('#cut').uncheck();
    await becomes(since(one, 'foobar-history', before), ['recovered:0 messages sent meanwhile'], 'the history');
  });

  await check('one socket: the line to copy is kept for a page that is loaded later', async () => {
    await sh(cli(await one.locator('#one-socket-cli code').textContent()));
    await becomes(async () => (await entries(one, 'foobar-history')()).at(-1), 'Hello', 'the message');
    await two.reload();
    const last = async () => (await entries(two, 'foobar-history')()).slice(-2);
    await becomes(async () => (await last()).at(-1), 'Hellofrom the history', 'the history');
    assert.match((await last())[0], /^quiet-.*from the history$/);
  });

  await check('one socket: users come and go by name', async () => {
    const key = unique('s').replace(/\W/g, '').padStart(32, '0');
    const session = `:1:django.contrib.sessions.cache${key}`;
    await redis('SET', session, JSON.stringify({ _auth_user_id: '7', 'ws4redis:username': 'john' }), 'EX', '7300');
    await browser.addCookies([{ name: 'sessionid', value: key, url: two.url(), httpOnly: true }]);
    await two.reload();
    const newest = async () => (await entries(one, 'foobar-history')()).at(-1);
    await becomes(newest, 'johnis here', 'the user');
    await becomes(() => fact(one, 'here'), 'john and 1 anonymous visitor', 'the visitors');
    await redis('DEL', session);
    await browser.clearCookies();
    await two.reload();
    await becomes(newest, 'johnhas left', 'the user', 20_000);
    await becomes(() => fact(one, 'here'), '2 anonymous visitors', 'the visitors');
  });
}
