// Two visitors with browsers of their own at one deployment, and their actions on the site's pages.
import { becomes, DEADLINE_MS, wholeRun, within } from '../browser/checks.mjs';
import { launch } from '../browser/browsers.mjs';
import { watch } from '../browser/sockets.mjs';
import { startDeployment } from './deployment.mjs';

const PASSWORD = 'secret';
const CLOSING_MS = 5000;

/** Runs `body({ deployment, john, mary })`; both are logged in. */
export function withVisitors(browser, proxy, firstPort, wholeRunMs, body) {
  return wholeRun(wholeRunMs, async (atEnd) => {
    const deployment = await startDeployment(proxy, firstPort, atEnd);
    const logInAs = async (name) => {
      const own = await launch(browser, [deployment.host, deployment.foreignHost], deployment.port);
      const kill = () => own.process().kill('SIGKILL');
      atEnd.push(() => within(own.close(), `closing ${browser}`, CLOSING_MS).catch(kill));
      const visitor = visitorOf(own, deployment, name);
      await logIn(visitor);
      return visitor;
    };
    const [john, mary] = await Promise.all([logInAs('john'), logInAs('mary')]);
    await body({ deployment, john, mary });
  });
}

function visitorOf(browser, deployment, name) {
  return {
    name,
    browser,
    deployment,
    async page(path, origin = deployment.origin) {
      const page = await browser.newPage();
      page.setDefaultTimeout(DEADLINE_MS);
      await page.goto(origin + path);
      return page;
    },
    /** Opens a chat page of the modern API; its socket is `window.chatSocket`, and open. */
    async chat(path = '/chat/') {
      const page = await this.page(path);
      await waitUntilOpen(page);
      return page;
    },
  };
}

/** Records the socket events of a page that has just been loaded, and waits until the socket is open. */
export async function waitUntilOpen(page) {
  await watch(page, 'chatSocket', 'socket');
  await becomes(stateOn(page), 'open', `state of ${page.url()}`);
  await page.evaluate(() => (window.chatSocket.states.length = window.chatSocket.at.length = 0));
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
export async function submitMessage(page, text, to) {
  await page.bringToFront();
  if (to) await page.select('#say select', to);
  await page.type('#text', text);
  await page.keyboard.press('Enter');
}

/** Clicks; the tab comes to the front first, since drivers wait until a background tab is drawn. */
export async function press(page, selector) {
  await page.bringToFront();
  await page.click(selector);
}

export const textOf = (page, selector) => page.$eval(selector, (element) => element.textContent.trim());
export const messagesOf = (page) => page.$$eval('#log li', (items) => items.map((item) => item.textContent));
export const stateOn = (page) => () => page.evaluate(() => document.body.dataset.state);

/** Waits until `text` is the last message of each page. */
export async function allReceive(pages, text, deadline) {
  for (const page of pages)
    await becomes(async () => (await messagesOf(page)).at(-1), text, `last message of ${page.url()}`, deadline);
}

export const closeAll = (...pages) => Promise.all(pages.map((page) => page.close()));
