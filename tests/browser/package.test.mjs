// The shipped files of static/: built from the sources, their size, the npm package, the types.
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

const CLIENT = ['ws4redis.js', 'ws4redis.mjs', 'ws4redis.d.ts', 'ws4redis.d.mts'];

test('the shipped files are the build of the sources', async () => {
  const built = join(home, 'built');
  mkdirSync(built);
  await run('node', join(root, 'static', 'build', 'build.mjs'), built);
  for (const name of CLIENT) {
    assert.equal(read('static', name), readFileSync(join(built, name), 'utf8'), `${name}: run static/build/build.mjs`);
  }
});

test('script and module have less than 8.5 kB gzipped each; a page loads one of them', () => {
  for (const name of ['ws4redis.js', 'ws4redis.mjs']) {
    const { length } = gzipSync(read('static', name));
    assert.ok(length < 8500, `${name}: ${length} bytes`);
  }
});

test('the module sets no global, and a bundle contains only the API that its page uses', async () => {
  writeFileSync(
    join(home, 'globals.mjs'),
    `const before = Object.getOwnPropertyNames(globalThis);
     await import('ws4redis');
     console.log(Object.getOwnPropertyNames(globalThis).filter((name) => !before.includes(name)).length);`,
  );
  assert.equal(await run('node', 'globals.mjs'), '0\n');
  const bundle = async (name, source) => {
    writeFileSync(join(home, name), source);
    const esbuild = join(root, 'static', 'build', 'node_modules', 'esbuild', 'bin', 'esbuild');
    return run(esbuild, name, '--bundle', '--minify', '--format=esm', '--log-level=error');
  };
  assert.doesNotMatch(await bundle('none.mjs', "import { ws4redis } from 'ws4redis';"), /WebSocket/);
  const modern = await bundle('modern.mjs', "import { ws4redis } from 'ws4redis'; ws4redis('/ws/x');");
  assert.match(modern, /WebSocket/);
  assert.doesNotMatch(modern, /receive_message|ends with/);
  const { length } = gzipSync(await bundle('small.mjs', "import { ws4redis } from 'ws4redis'; ws4redis('/ws/x');"));
  assert.ok(length < 6000, `the plain API alone: ${length} bytes`);
  const pages = await bundle('pages.mjs', "import { connect } from 'ws4redis'; connect('/ws/');");
  assert.match(pages, /ends with/);
  assert.doesNotMatch(pages, /receive_message/);
  assert.match(await bundle('classic.mjs', "import 'ws4redis/ws4redis.js';"), /receive_message/);
});

test('the package contains the client and its types, and no part of the demo', () => {
  assert.deepEqual(files, [...CLIENT, 'LICENSE', 'README.md', 'package.json'].sort());
  const about = JSON.parse(read('static', 'package.json'));
  assert.deepEqual([about.dependencies, about.scripts], [undefined, undefined]);
  assert.equal(about.version, /^version = "(.*)"$/m.exec(read('Cargo.toml'))[1]);
  assert.equal(read('static', 'LICENSE'), read('LICENSE'));
});

test('the package can be imported by name, also without a page', async () => {
  const script = `
    import ours, { WS4Redis, connect, ws4redis } from 'ws4redis';
    import 'ws4redis/ws4redis.js';
    const signal = AbortSignal.abort();
    const sockets = [ws4redis, ours].map((open) => open('wss://example.test/ws/x', { signal }));
    const pages = [connect, ours.connect, WS4Redis.page].map((open) => open('wss://example.test/ws/', { signal }));
    console.log([...sockets, ...pages].map(({ state }) => state).join(), WS4Redis.connect === ws4redis);
    console.log('ws4redis' in globalThis);`;
  writeFileSync(join(home, 'page.mjs'), script);
  assert.equal(await run('node', 'page.mjs'), 'closed,closed,closed,closed,closed true\nfalse\n');
});

test('a path without a page is refused, with the place where to connect', async () => {
  const script = `
    import { connect, ws4redis } from 'ws4redis';
    for (const open of [ws4redis, connect])
      try { open('/ws/'); } catch ({ message }) { console.log(message); }`;
  writeFileSync(join(home, 'server.mjs'), script);
  const hint = 'ws4redis: a path needs a page. Connect in the browser only, for example in useEffect or onMounted\n';
  assert.equal(await run('node', 'server.mjs'), hint + hint);
});

test('the declarations are strict, and say what the client says', async () => {
  cpSync(join(root, 'tests', 'browser', 'types'), home, { recursive: true });
  const tsc = join(root, 'static', 'build', 'node_modules', 'typescript', 'lib', 'tsc.js');
  const strict = ['--noEmit', '--strict', '--exactOptionalPropertyTypes', '--skipDefaultLibCheck'];
  const page = ['--module', 'nodenext', '--target', 'es2020', '--lib', 'es2020,dom'];
  await run('node', tsc, ...strict, ...page, 'module.mts', 'classic.ts');
});
