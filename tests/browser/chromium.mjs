// A run in Chromium, through playwright-core.
//
// CHROMIUM   the browser, default /usr/bin/chromium
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { chromium } from 'playwright-core';
import { wholeRun } from './checks.mjs';

export * from './checks.mjs';

/** Runs `body` with a browser in a profile of its own. */
export function withChromium(wholeRunMs, options, body) {
  return wholeRun(wholeRunMs, async (atEnd) => {
    const profile = mkdtempSync(join(tmpdir(), 'ws4redis-chromium-'));
    atEnd.push(async () => rmSync(profile, { recursive: true, force: true }));
    const browser = await chromium.launchPersistentContext(profile, {
      executablePath: process.env.CHROMIUM ?? '/usr/bin/chromium',
      headless: true,
      args: [
        '--headless',
        '--no-sandbox',
        '--disable-gpu',
        '--disable-quic',
        '--no-first-run',
        '--disable-background-networking',
        '--disable-component-update',
        '--disable-sync',
      ],
      ...options,
    });
    atEnd.push(() => browser.close());
    await body(browser);
  });
}
