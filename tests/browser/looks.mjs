// How the demo page looks: sizes, columns, and the colours of states, on a desktop and a phone, light and dark.
import assert from 'node:assert/strict';
import { axe } from './accessible.mjs';
import { becomes, check, DEADLINE_MS, unique } from './chromium.mjs';
import { overall, person, sendInChat } from './tour.mjs';

const DESKTOP = { width: 1280, height: 900 };
const SCREENS = [DESKTOP, { width: 390, height: 844 }].flatMap((size) =>
  ['light', 'dark'].map((colorScheme) => ({ name: `${colorScheme}, ${size.width} px`, size, colorScheme })),
);
const SMALLEST_PX = 24;
const CONTROLS = 'a, button, summary, input, label:has(input)';

async function show(page, { size, colorScheme }) {
  await page.setViewportSize(size);
  await page.emulateMedia({ colorScheme });
}

/** On each screen; afterwards the page has its former look. */
async function onEachScreen(page, name, body) {
  for (const screen of SCREENS) {
    await check(`${name}, ${screen.name}`, async () => {
      await show(page, screen);
      await body(screen);
    });
  }
  await show(page, { size: DESKTOP, colorScheme: null });
}

const buttons = (page) => page.locator('.say [type="submit"]');

/** The colour of a variable of the style sheet, as computed. */
function colourOf(page, variable) {
  return page.evaluate((name) => {
    const probe = document.createElement('i');
    probe.style.color = `var(${name})`;
    document.body.append(probe);
    const { color } = getComputedStyle(probe);
    probe.remove();
    return color;
  }, variable);
}

function colour(locator) {
  return locator.evaluate((one) => getComputedStyle(one).color);
}

/** The submit buttons with whether each is disabled and dimmed. */
function dimmed(page) {
  return buttons(page).evaluateAll((all) =>
    all.map((one) => one.getAttribute('aria-disabled') === 'true' && Number(getComputedStyle(one).opacity) < 0.6),
  );
}

/** For a page that is connected, with its form for any address open. */
export async function checkLooks(browser, page, origin) {
  await onEachScreen(page, 'connected: every button can send', async () => {
    await becomes(() => dimmed(page), Array(6).fill(false), 'the buttons');
    assert.equal(await colour(page.locator('#overall')), await colourOf(page, '--open'));
  });

  const linked = await browser.newPage();
  linked.setDefaultTimeout(DEADLINE_MS);
  // As in a build whose package names its repository.
  await linked.addInitScript(() => {
    const fillIn = () => (document.querySelector('meta[name="docs"]').content = '/docs/');
    document.addEventListener('readystatechange', fillIn, { once: true });
  });
  await linked.goto(`${origin}/`);
  await overall(linked, 'open');
  await check('documents are links where the package names its repository', async () => {
    const links = await linked.locator('.docs a').evaluateAll((all) => all.map((link) => link.getAttribute('href')));
    assert.ok(links.length >= 5 && links.includes('/docs/django.md'), links.join());
    assert.equal(await linked.locator('.docs code').count(), 0);
  });
  for (const summary of await linked.locator('summary').all()) await summary.click();
  await onEachScreen(linked, `no control or link is smaller than ${SMALLEST_PX} pixels, nothing is wider than the window`, async ({ size }) => {
    const small = await linked.locator(CONTROLS).evaluateAll(
      (all, least) =>
        all.map((one) => [one.outerHTML, one.getBoundingClientRect()])
          .filter(([, { width, height }]) => width > 0 && (width < least || height < least))
          .map(([html, { width, height }]) => `${width} x ${height}: ${html}`),
      SMALLEST_PX,
    );
    assert.deepEqual(small, []);
    assert.ok((await linked.evaluate(() => document.documentElement.scrollWidth)) <= size.width);
  });
  await check('the log is as high as the window and always in sight on wide screens', async () => {
    for (const width of [1000, 1280, 1920]) {
      await linked.setViewportSize({ width, height: 900 });
      for (const part of [0, 0.3, 0.7, 1]) {
        const { log, left, isOnTop } = await linked.evaluate((part) => {
          const { scrollHeight } = document.documentElement;
          scrollTo({ top: part * (scrollHeight - innerHeight), behavior: 'instant' });
          const log = document.getElementById('log');
          const box = log.getBoundingClientRect();
          const sections = [...document.querySelectorAll('.masthead, .tour, #lines')];
          return {
            log: [Math.round(Math.abs(box.top)), Math.round(box.height)],
            left: sections.every((one) => one.getBoundingClientRect().right <= box.left),
            isOnTop: log.contains(document.elementFromPoint(box.left + box.width / 2, 450)),
          };
        }, part);
        assert.deepEqual([log, left, isOnTop], [[0, 900], true, true], `${width} px, scrolled to ${part}`);
      }
    }
  });
  await check('the tab of the part in sight is marked', async () => {
    for (const [size, ids] of [[DESKTOP, ['echo', 'lines', 'chat']], [SCREENS.at(-1).size, ['kept', 'log', 'chat']]]) {
      await linked.setViewportSize(size);
      for (const id of ids) {
        await linked.locator(`#tabs a[href="#${id}"]`).click();
        await linked.locator(`#tabs a[href="#${id}"][aria-current="true"]`).waitFor();
      }
    }
  });
  await linked.close();
}

/** For a page that waits for its first connection. */
export async function checkFirst(page) {
  assert.equal(await page.locator('#overall').textContent(), 'connecting');
  assert.equal(await colour(page.locator('#overall')), await colourOf(page, '--wait'));
  assert.ok((await page.locator('#connections li').count()) >= 3);
  const rows = await page.locator('#connections li').filter({ hasNotText: 'Socket.IO' }).locator('.state').allTextContents();
  for (const row of rows) assert.match(row, /^connecting/);
  assert.deepEqual(await dimmed(page), Array(6).fill(true));
}

/** For a page whose gateway is away. */
export async function checkLost(page) {
  await onEachScreen(page, 'outage: errors have their colour, and no button can send', async () => {
    await becomes(() => dimmed(page), Array(6).fill(true), 'the buttons');
    assert.equal(await colour(page.locator('#overall')), await colourOf(page, '--wait'));
    const shut = await colourOf(page, '--shut');
    await sendInChat(page, 1, unique('unsent'));
    for (const [form, outcome] of [['#both', '#both-outcome'], ['#keep', '#keep-outcome'], ['#to-both', '#one-socket-sent']]) {
      await page.locator(`${form} input`).fill('unsent');
      await page.locator(`${form} [type="submit"]`).press('Enter');
      await page.locator(outcome).filter({ hasText: /^Not (sent|published): / }).waitFor();
      assert.equal(await colour(page.locator(outcome)), shut, outcome);
    }
    await page.locator('#address-text').press('Enter');
    await page.locator('.send-hint').filter({ hasText: /^Not sent: / }).waitFor();
    await page.locator('#route').filter({ hasText: /^Not sent: / }).waitFor();
    for (const place of ['#route', '.send-hint', '#log-lines [data-kind="closed"] .text'])
      assert.equal(await colour(page.locator(place).last()), shut, place);
    assert.notEqual(await colour(person(page, 1).locator('h3')), shut);
    await axe(page);
  });
}
