// The demo page at a gateway with the rules that the page shows, whose Redis is a server:
//
//   node tests/browser/demo_rules.mjs http://127.0.0.1:8000
//
// CHROMIUM    the browser, as chromium.mjs says
// REDIS_CLI   a command to which commands are appended, e.g. `redis-cli -p 6379`
// WS4REDIS    a command that replaces `ws4redis` in lines to copy
//
// The last line is `N passed, N failed`.
import assert from 'node:assert/strict';
import { check, DEADLINE_MS, sh, withChromium } from './chromium.mjs';
import { axe } from './accessible.mjs';
import { checkWithRules } from './one_socket.mjs';

const WHOLE_RUN_MS = 90_000;

if (!process.argv[2]) {
  console.error('usage: node demo_rules.mjs http://HOST:PORT');
  process.exit(64);
}
const { REDIS_CLI, WS4REDIS } = process.env;
const errors = [];

await withChromium(WHOLE_RUN_MS, { viewport: { width: 1280, height: 900 } }, async (browser) => {
  const [one, two] = [await browser.newPage(), await browser.newPage()];
  for (const tab of [one, two]) {
    tab.setDefaultTimeout(DEADLINE_MS);
    tab.on('pageerror', ({ message }) => errors.push(message));
    tab.on('console', (message) => ['error', 'warning'].includes(message.type()) && errors.push(message.text()));
    await tab.goto(`${process.argv[2]}/`);
  }
  const cli = (line) => line.replace(/^ws4redis/, WS4REDIS);
  const redis = (...args) => sh(`${REDIS_CLI} "$@"`, ...args);
  await checkWithRules(browser, one, two, cli, redis);
  await check('axe finds nothing', () => axe(one));
  await check('no console errors', () => assert.deepEqual(errors, []));
});
