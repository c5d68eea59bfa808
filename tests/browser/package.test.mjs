// static/ as a product: its size, what npm packs, its types.
import assert from 'node:assert/strict';
import { execFile } from 'node:child_process';
import { cpSync, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, before, test } from 'node:test';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';
import { gzipSync } from 'node:zlib';

const root = fileURLToPath(new URL('../../', import.meta.url));
const read = (...path) => readFileSync(join(root, ...path), 'utf8');
const home = mkdtempSync(join(tmpdir(), 'ws4redis-package-'));
const packed = join(home, 'node_modules', 'ws4redis');
const run = async (command, ...args) => {
  const { stdout } = await promisify(execFile)(command, args, { cwd: home, timeout: 60_000 }).catch((error) => {
    assert.fail(`${command} ${args.join(' ')}\n${error.stdout}\n${error.stderr}`);
  });
  return stdout;
};

let files;
before(async () => {
  const [pack] = JSON.parse(await run('npm', 'pack', '--json', '--ignore-scripts', join(root, 'static')));
  files = pack.files.map(({ path }) => path).sort();
  mkdirSync(packed, { recursive: true });
  await run('tar', '-xzf', pack.filename, '-C', packed, '--strip-components=1');
});
after(() => rmSync(home, { recursive: true, force: true }));

test('script and module are under 8.5 kB gzipped', () => {
  const sizes = ['ws4redis.js', 'ws4redis.mjs'].map((name) => gzipSync(read('static', name)).length);
  assert.ok(sizes[0] + sizes[1] < 8500, `${sizes.join(' + ')} bytes`);
});

test('the package has the client and its types, and nothing of the demo', () => {
  const client = ['ws4redis.js', 'ws4redis.mjs', 'ws4redis.d.ts', 'ws4redis.d.mts'];
  assert.deepEqual(files, [...client, 'LICENSE', 'README.md', 'package.json'].sort());
  const about = JSON.parse(read('static', 'package.json'));
  assert.deepEqual([about.dependencies, about.scripts], [undefined, undefined]);
  assert.equal(about.version, /^version = "(.*)"$/m.exec(read('Cargo.toml'))[1]);
  assert.equal(read('static', 'LICENSE'), read('LICENSE'));
});

test('it can be imported by name, also where there is no page', async () => {
  const script = `
    import ours, { WS4Redis, ws4redis } from 'ws4redis';
    import 'ws4redis/ws4redis.js';
    const socket = ws4redis('wss://example.test/ws/x', { signal: AbortSignal.abort() });
    console.log(ours === ws4redis, ours === WS4Redis.connect, socket.state, 'ws4redis' in globalThis);`;
  writeFileSync(join(home, 'page.mjs'), script);
  assert.equal(await run('node', 'page.mjs'), 'true true closed false\n');
});

test('the declarations are strict, and say what the client says', async () => {
  cpSync(join(root, 'tests', 'browser', 'types'), home, { recursive: true });
  const tsc = join(root, 'tests', 'browser', 'node_modules', 'typescript', 'lib', 'tsc.js');
  const strict = ['--noEmit', '--strict', '--exactOptionalPropertyTypes', '--skipDefaultLibCheck'];
  const page = ['--module', 'nodenext', '--target', 'es2020', '--lib', 'es2020,dom'];
  await run('node', tsc, ...strict, ...page, 'module.mts', 'classic.ts');
});
