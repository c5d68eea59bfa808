// The npm package in a Next site, against a running gateway: built with its types, rendered without a page, and used in
// Chromium.
//
//   node tests/browser/next.mjs http://127.0.0.1:8000
//
// CHROMIUM    the browser, as chromium.mjs says
//
// The last line is `N passed, N failed`.
import assert from 'node:assert/strict';
import { execFile } from 'node:child_process';
import { mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { extname, join, relative } from 'node:path';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';
import { blockingProxy } from './blocking_proxy.mjs';
import { becomes, check, DEADLINE_MS, unique, withChromium } from './chromium.mjs';

const WHOLE_RUN_MS = 300_000;
const BUILD_MS = 240_000;
const TYPES = { '.html': 'text/html; charset=utf-8', '.js': 'text/javascript', '.css': 'text/css' };
const site = fileURLToPath(new URL('next/', import.meta.url));
const client = fileURLToPath(new URL('../../static/', import.meta.url));

if (!process.argv[2]) {
  console.error('usage: node next.mjs http://HOST:PORT');
  process.exit(64);
}
const gateway = new URL(process.argv[2]).origin;

async function run(command, ...args) {
  const env = { ...process.env, CI: '1', NEXT_TELEMETRY_DISABLED: '1' };
  const { stdout } = await promisify(execFile)(command, args, { cwd: site, env, timeout: BUILD_MS }).catch((error) => {
    assert.fail(`${command} ${args.join(' ')}\n${error.stdout}\n${error.stderr}`);
  });
  return stdout;
}

/** Installs the packed client, as from the index: a link to its folder would bypass the list of its files. */
async function install() {
  const home = mkdtempSync(join(tmpdir(), 'ws4redis-next-'));
  const [{ filename }] = JSON.parse(await run('npm', 'pack', '--json', '--ignore-scripts', '--pack-destination', home, client));
  const target = join(site, 'node_modules', 'ws4redis');
  rmSync(target, { recursive: true, force: true });
  mkdirSync(target);
  await run('tar', '-xzf', join(home, filename), '-C', target, '--strip-components=1');
  rmSync(home, { recursive: true, force: true });
}

/** The built files by path; pages have no extension in theirs. */
function built() {
  const out = join(site, 'out');
  const files = readdirSync(out, { recursive: true, withFileTypes: true }).filter((file) => file.isFile());
  return Object.fromEntries(
    files.map(({ parentPath, name }) => {
      const path = `/${relative(out, join(parentPath, name))}`;
      const type = TYPES[extname(name)] ?? 'application/octet-stream';
      return [path === '/index.html' ? '/' : path, { type, text: readFileSync(join(parentPath, name)) }];
    }),
  );
}

await withChromium(WHOLE_RUN_MS, {}, async (browser) => {
  await check('Next builds a site with the packed client and its types', async () => {
    await install();
    rmSync(join(site, 'out'), { recursive: true, force: true });
    await run('node', 'node_modules/next/dist/bin/next', 'build');
  });
  const proxy = await blockingProxy(gateway, built());
  proxy.refuse = 0;
  const errors = [];
  const page = await browser.newPage();
  page.setDefaultTimeout(DEADLINE_MS);
  page.on('pageerror', ({ message }) => errors.push(message));
  page.on('console', (message) => ['error', 'warning'].includes(message.type()) && errors.push(message.text()));

  await check('a page rendered by Next says why it cannot connect there, and connects in the browser', async () => {
    await page.goto(`${proxy.origin}/#${unique('next')}`);
    assert.match(await page.locator('#refusal').textContent(), /^ws4redis: a path needs a page\. Connect in the browser/);
    await becomes(() => page.locator('#state').textContent(), 'open, subscribed', 'both connections');
  });
  await check('its messages arrive by the socket and by the page, and no global is set', async () => {
    await page.getByRole('button', { name: 'Send' }).click();
    const shown = async () => (await page.locator('li').allTextContents()).sort();
    await becomes(shown, ['page: Hello from Next', 'socket: Hello from Next'], 'the messages');
    assert.deepEqual(await page.evaluate(() => ['WS4Redis', 'ws4redis'].filter((name) => name in window)), []);
    assert.deepEqual(errors, []);
  });
  await proxy.stop();
});
