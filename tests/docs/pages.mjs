// Pages in Chromium for the Python tests. Each line of standard input is a command, as JSON with the page's `id`:
//
//   {open: URL, cookies: [{name, value, url}]}
//   {evaluate: CODE}   the body of an async function
//   {close: true}
//
// Its reply is a line {id, done: VALUE} or {id, failed: TEXT}. A console message of a page is a line {id, printed: TEXT}.
import { createInterface } from 'node:readline';
import { DEADLINE_MS, withChromium } from '../browser/chromium.mjs';

const WHOLE_RUN_MS = 600_000;

const reply = (id, what) => console.log(JSON.stringify({ id, ...what }));
const pages = new Map();

async function open(browser, id, { open: url, cookies }) {
  await browser.clearCookies();
  await browser.addCookies(cookies);
  const page = await browser.newPage();
  pages.set(id, page);
  page.setDefaultTimeout(DEADLINE_MS);
  page.on('console', (message) => reply(id, { printed: message.text() }));
  page.on('pageerror', (error) => reply(id, { printed: `error: ${error.message}` }));
  await page.goto(url);
}

withChromium(WHOLE_RUN_MS, {}, async (browser) => {
  for await (const line of createInterface({ input: process.stdin })) {
    const { id, ...command } = JSON.parse(line);
    try {
      let done = null;
      if (command.open) await open(browser, id, command);
      else if (command.evaluate) done = await pages.get(id).evaluate(`(async () => {${command.evaluate}\n})()`);
      else await pages.get(id).close();
      reply(id, { done: done ?? null });
    } catch (error) {
      reply(id, { failed: error.message });
    }
  }
});
