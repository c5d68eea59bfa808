// Shared by the runs in browsers: counted checks, and waiting with a deadline.
import assert from 'node:assert/strict';
import { execFile } from 'node:child_process';
import { promisify } from 'node:util';

export const DEADLINE_MS = 10_000;

let passed = 0;
let failed = 0;
let serial = 0;
// Redis may replay persisted messages of an earlier run, so each text and each facility is unique.
const run = Math.random().toString(36).slice(2, 8);

export const unique = (word) => `${word}-${run}-${(serial += 1)}`;
export const sh = (script, ...args) =>
  promisify(execFile)('/bin/sh', ['-c', script, 'sh', ...args], { timeout: 30_000 });

export async function check(name, body) {
  const since = Date.now();
  try {
    await body();
    passed += 1;
    const seconds = Math.round((Date.now() - since) / 1000);
    console.log(`ok    ${name}${seconds > 1 ? ` (${seconds} s)` : ''}`);
  } catch (error) {
    failed += 1;
    console.log(`FAIL  ${name}\n      ${String(error.message).replaceAll('\n', '\n      ')}`);
  }
}

export function skip(name, why) {
  console.log(`skip  ${name}: ${why}`);
}

/** Polls until `read()` returns `wanted`. */
export async function becomes(read, wanted, what, deadline = DEADLINE_MS) {
  const end = Date.now() + deadline;
  for (;;) {
    const received = await read();
    try {
      assert.deepEqual(received, wanted);
      return;
    } catch {
      if (Date.now() > end)
        assert.deepEqual(received, wanted, `${what}: ${JSON.stringify(received)} instead of ${JSON.stringify(wanted)}`);
    }
    await new Promise((resolve) => setTimeout(resolve, 25));
  }
}

/** Resolves like the promise; fails after the deadline. */
export async function within(promise, what, deadline = DEADLINE_MS) {
  let timer;
  const late = new Promise((_, reject) => {
    timer = setTimeout(() => reject(new Error(`${what}: not within ${deadline / 1000} s`)), deadline);
  });
  return Promise.race([promise, late]).finally(() => clearTimeout(timer));
}

/**
 * Runs `body`, prints the counts as `N passed, N failed`, and ends the process. At the end it runs the functions that
 * `body` has added to the list it receives, in reverse order, also after a failure.
 */
export async function wholeRun(ms, body) {
  const atEnd = [];
  try {
    await within(body(atEnd), 'the whole run', ms);
  } catch (error) {
    failed += 1;
    console.log(`FAIL  the run itself: ${error.stack}`);
  }
  for (const act of atEnd.reverse()) {
    await within(act(), 'the end').catch((error) => console.log(`      ${error.message}`));
  }
  console.log(`${passed} passed, ${failed} failed`);
  process.exit(failed > 0 ? 1 : 0);
}
