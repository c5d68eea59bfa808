// Accessibility of the demo page: axe's rules, keyboard, a phone's screen.
import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { check, unique } from './chromium.mjs';
import { setFacility } from './address.mjs';
import { arrived, person, sendInChat } from './tour.mjs';

const AXE = readFileSync(new URL('node_modules/axe-core/axe.min.js', import.meta.url), 'utf8');

/** Runs axe; fails with the violated rules and their elements. */
export async function axe(page) {
  await page.evaluate(AXE);
  const broken = await page.evaluate(async () => {
    const { violations } = await axe.run(document);
    return violations.map(({ id, nodes }) => `${id}: ${nodes.map((node) => node.html).join(' | ')}`);
  });
  assert.deepEqual(broken, []);
}

export async function checkAccess(one, two) {
  for (const [colorScheme, width] of [
    ['light', 1280],
    ['dark', 1280],
    ['light', 360],
    ['dark', 360],
  ]) {
    await check(`axe finds nothing, ${colorScheme}, ${width} px`, async () => {
      await one.emulateMedia({ colorScheme });
      await one.setViewportSize({ width, height: 900 });
      for (const summary of await one.locator('details:not([open]) > summary').all()) await summary.click();
      await axe(one);
    });
  }

  await check('dark and light differ', async () => {
    const colours = [];
    for (const colorScheme of ['light', 'dark']) {
      await one.emulateMedia({ colorScheme });
      colours.push(await one.evaluate(() => getComputedStyle(document.body).backgroundColor));
    }
    assert.notEqual(colours[0], colours[1]);
    await one.emulateMedia({ colorScheme: null });
    await one.setViewportSize({ width: 1280, height: 900 });
  });

  await check('nothing moves for visitors who prefer reduced motion', async () => {
    const scrolls = () => one.evaluate(() => getComputedStyle(document.documentElement).scrollBehavior);
    assert.equal(await scrolls(), 'smooth');
    await one.emulateMedia({ reducedMotion: 'reduce' });
    assert.equal(await scrolls(), 'auto');
    await one.emulateMedia({ reducedMotion: null });
  });

  await check('a screen reader announces a message once, and the log never', async () => {
    assert.equal(await person(one, 1).locator('[role="log"]').getAttribute('aria-live'), null);
    assert.equal(await person(one, 2).locator('[role="log"]').getAttribute('aria-live'), 'off');
    assert.equal(await one.locator('#log-lines').getAttribute('aria-live'), 'off');
    assert.equal(await one.locator('#overall').getAttribute('role'), 'status');
  });

  await check('the keyboard alone reaches every control, with a visible focus', async () => {
    await one.bringToFront();
    await one.evaluate(() => {
      document.activeElement?.blur();
      scrollTo(0, 0);
    });
    const reached = [];
    const hidden = [];
    for (let i = 0; i < 105; i += 1) {
      await one.keyboard.press('Tab');
      const [what, seen] = await one.evaluate(() => {
        const now = document.activeElement;
        if (now === document.body) return ['', true];
        const what = now.getAttribute('aria-label') ?? (now.id || now.name || now.textContent.trim());
        return [what, getComputedStyle(now).outlineStyle !== 'none'];
      });
      reached.push(what);
      if (!seen) hidden.push(what);
    }
    const name = await person(one, 2).locator('h3').textContent();
    for (const wanted of [
      'Skip to the tour',
      'Lines to copy',
      `say-${name}`,
      `Messages to ${name}`,
      'ask-again',
      'How to log in',
      'keep-value',
      'newcomer',
      'both-text',
      'cut',
      'to-both-text',
      'Settings for history and presence',
      'log-lines',
      'facility',
      'publish-session',
      'echo',
      'address-text',
      'Copy nginx',
    ])
      assert.ok(reached.includes(wanted), `${wanted} was not reached: ${reached.join(', ')}`);
    assert.deepEqual(hidden, []);
    await one.locator('.skip').focus();
    await one.keyboard.press('Enter');
    await one.keyboard.press('Tab');
    assert.equal(await one.evaluate(() => document.activeElement.textContent), 'Open a second tab');
  });

  await check('phone width has no horizontal scroll', async () => {
    const text = unique('w'.repeat(300));
    await setFacility(two, unique('f'.repeat(120)));
    await arrived(person(two, 2), await sendInChat(two, 1, text));
    for (const width of [320, 360, 700, 1000]) {
      await two.setViewportSize({ width, height: 740 });
      const wide = await two.evaluate(() => document.documentElement.scrollWidth);
      assert.ok(wide <= width, `${wide} px of content at ${width} px`);
    }
    await two.setViewportSize({ width: 1280, height: 900 });
  });
}
