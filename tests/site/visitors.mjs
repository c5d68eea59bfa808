// Two visitors in browsers of their own, before one world, and what they do.
import { becomes, DEADLINE_MS, wholeRun, within } from '../browser/checks.mjs';
import { launch } from '../browser/browsers.mjs';
import { watch } from '../browser/sockets.mjs';
import { openWorld } from './world.mjs';

const PASSWORD = 'secret';
const CLOSING_MS = 5000;

/** Runs `body({ world, john, mary })`; both are logged in. */
export function onStage(browser, proxy, firstPort, wholeRunMs, body) {
  return wholeRun(wholeRunMs, async (atEnd) => {
    const world = await openWorld(proxy, firstPort, atEnd);
    const enter = async (name) => {
      const own = await launch(browser, [world.host, world.neighbour], world.port);
      const kill = () => own.process().kill('SIGKILL');
      atEnd.push(() => within(own.close(), `closing ${browser}`, CLOSING_MS).catch(kill));
      const visitor = visitorOf(own, world, name);
      await logIn(visitor);
      return visitor;
    };
    const [john, mary] = await Promise.all([enter('john'), enter('mary')]);
    await body({ world, john, mary });
  });
}

function visitorOf(browser, world, name) {
  return {
    name,
    browser,
    world,
    async page(path, origin = world.origin) {
      const page = await browser.newPage();
      page.setDefaultTimeout(DEADLINE_MS);
      await page.goto(origin + path);
      return page;
    },
    /** A page of the new client; its socket is `window.line` from then on, and open. */
    async chat(path = '/chat/') {
      const page = await this.page(path);
      await attend(page);
      return page;
    },
  };
}

/** Listens to the socket of a page that has just been loaded, and waits until that is open. */
export async function attend(page) {
  await watch(page, 'line', 'socket');
  await becomes(stateOn(page), 'open', `state of ${page.url()}`);
  await page.evaluate(() => (window.line.states.length = window.line.at.length = 0));
}

export async function logIn(visitor) {
  const page = await visitor.page('/accounts/login/?next=/chat/');
  await page.type('[name=username]', visitor.name);
  await page.type('[name=password]', PASSWORD);
  await Promise.all([page.waitForNavigation(), page.keyboard.press('Enter')]);
  await becomes(() => textOf(page, '#user'), visitor.name, 'the page names');
  await page.close();
}

/** Types into the page's field, and presses Enter. */
export async function say(page, text, to) {
  await page.bringToFront();
  if (to) await page.select('#say select', to);
  await page.type('#text', text);
  await page.keyboard.press('Enter');
}

/** A click; drivers wait for a tab in the background to be drawn. */
export async function press(page, selector) {
  await page.bringToFront();
  await page.click(selector);
}

export const textOf = (page, selector) => page.$eval(selector, (element) => element.textContent.trim());
export const heard = (page) => page.$$eval('#log li', (items) => items.map((item) => item.textContent));
export const stateOn = (page) => () => page.evaluate(() => document.body.dataset.state);

/** The last message of each page is this one. */
export async function allHear(pages, text, deadline) {
  for (const page of pages)
    await becomes(async () => (await heard(page)).at(-1), text, `last message of ${page.url()}`, deadline);
}

export const closeAll = (...pages) => Promise.all(pages.map((page) => page.close()));
