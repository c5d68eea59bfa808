// What the runs in Chromium share: counting checks, waiting with a deadline, starting the browser.
//
// CHROMIUM   the browser, default /usr/bin/chromium
import assert from 'node:assert/strict';
import { execFile } from 'node:child_process';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { promisify } from 'node:util';
import { chromium } from 'playwright-core';

export const DEADLINE_MS = 10_000;

let passed = 0;
let failed = 0;
let serial = 0;
// Messages are kept and replayed, also from an earlier run: no two texts and no two facilities are the same.
const run = Math.random().toString(36).slice(2, 8);

export const unique = (word) => `${word}-${run}-${(serial += 1)}`;
export const sh = (script, ...args) =>
  promisify(execFile)('/bin/sh', ['-c', script, 'sh', ...args], { timeout: 30_000 });

export async function check(name, body) {
  try {
    await body();
    passed += 1;
    console.log(`ok    ${name}`);
  } catch (error) {
    failed += 1;
    console.log(`FAIL  ${name}\n      ${String(error.message).replaceAll('\n', '\n      ')}`);
  }
}

export function skip(name, why) {
  console.log(`skip  ${name}: ${why}`);
}

/** Polls until `read()` gives `wanted`. */
export async function becomes(read, wanted, what, deadline = DEADLINE_MS) {
  const end = Date.now() + deadline;
  for (;;) {
    const got = await read();
    try {
      assert.deepEqual(got, wanted);
      return;
    } catch {
      if (Date.now() > end)
        assert.deepEqual(got, wanted, `${what}: ${JSON.stringify(got)} instead of ${JSON.stringify(wanted)}`);
    }
    await new Promise((resolve) => setTimeout(resolve, 25));
  }
}

/**
 * Runs `body` with a browser in a profile of its own, prints what has passed as `N passed, N failed`, and ends the
 * process.
 */
export async function withChromium(wholeRunMs, options, body) {
  const watchdog = setTimeout(() => {
    console.log(`FAIL  the whole run took longer than ${wholeRunMs / 1000} s`);
    console.log(`${passed} passed, ${failed + 1} failed`);
    process.exit(1);
  }, wholeRunMs);
  const profile = mkdtempSync(join(tmpdir(), 'ws4redis-chromium-'));
  let browser;
  try {
    browser = await chromium.launchPersistentContext(profile, {
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
    await body(browser);
  } catch (error) {
    failed += 1;
    console.log(`FAIL  the run itself: ${error.stack}`);
  } finally {
    await browser?.close().catch(() => {});
    rmSync(profile, { recursive: true, force: true });
    clearTimeout(watchdog);
  }
  console.log(`${passed} passed, ${failed} failed`);
  process.exit(failed > 0 ? 1 : 0);
}
