// The demo page while the gateway is away.
import assert from 'node:assert/strict';
import { becomes, check } from './chromium.mjs';
import { logs, nameOf } from './tour.mjs';

const ATTEMPT_MS = 40_000;

/** The entries of the log that report failed attempts of this connection. */
async function attempts(page, name) {
  const all = page.locator('#log-lines .entry').filter({ has: page.locator(`b:text-is("${name}")`) });
  return (await all.locator('.text').allTextContents()).filter((text) => /; attempt \d+/.test(text));
}

/** For a page whose connections were open until the gateway was stopped. */
export async function checkOutage(one) {
  await check('log: the failed attempts of each connection share one entry, which counts down', async () => {
    const names = [await nameOf(one, 1), await nameOf(one, 2), 'You', 'Address', 'One socket', 'Socket.IO'];
    const listed = async () =>
      one.locator('#connections li b').evaluateAll((all) => all.map((name) => name.textContent).sort());
    assert.deepEqual((await listed()).filter((name) => names.includes(name)), [...names].sort());
    for (const name of names) {
      await logs(one, name, /; attempt ([2-9]|\d\d), next in \d+ s$/, ATTEMPT_MS);
      const entries = await attempts(one, name);
      assert.equal(entries.length, 1, entries.join(' | '));
    }
    const [first] = await attempts(one, names[0]);
    await becomes(async () => (await attempts(one, names[0]))[0] !== first, true, 'the countdown');
  });
}

/** For the same page once it is connected again. */
export async function checkReturn(one) {
  await check('log: the entry says at last how many attempts failed', async () => {
    for (const name of [await nameOf(one, 1), 'One socket', 'Socket.IO'])
      await logs(one, name, /; \d+ attempts? failed$/, ATTEMPT_MS);
  });
}
