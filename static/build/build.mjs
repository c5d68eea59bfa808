// Builds the shipped files of static/ from static/src: `node build.mjs [FOLDER]`, by default into static/.
import { execFileSync } from 'node:child_process';
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { build } from 'esbuild';
import { minify } from 'terser';

const here = (path) => fileURLToPath(new URL(path, import.meta.url));
const target = process.argv[2] ?? here('..');
const { version } = JSON.parse(readFileSync(here('../package.json'), 'utf8'));
const banner = `/*! ws4redis ${version} | MIT licence */`;
/** Properties of the client's own objects, which no page sees. Names of the DOM and of both APIs keep theirs. */
const INTERNAL =
  /^(inconclusive|useless|retryAfter|renewable|remote|modern|onalive|retry|refusals|pending|until|key|expect|takeMatch|check|online|every|greeted|asking|askAgain|ask|receive|wait|usePlain|dropPlain|shares|handle|request|connectPlain|leave|timer|bearer)$/;

/** The types that components and composables name; the others are in the namespace `ws4redis`. */
const NAMED = 'Audience Message Options Page PageMessage PageOptions Socket State SubscribeOptions Subscription'.split(' ');

async function script(entry, format) {
  const options = { bundle: true, format, target: 'es2020', mangleProps: INTERNAL, legalComments: 'none', write: false };
  const { outputFiles } = await build({ entryPoints: [here(`../src/${entry}`)], ...options });
  const { code } = await minify(outputFiles[0].text, {
    ecma: 2020,
    module: format === 'esm',
    toplevel: true,
    compress: { passes: 3, inline: 0, keep_fargs: false, unsafe_arrows: true },
    // Bundlers of pages drop an unused API by these annotations.
    format: { preserve_annotations: format === 'esm' },
  });
  return `${banner}\n${code}\n`;
}

/** The declarations of src/types.ts, as tsc emits them. It also checks the types of all sources. */
function types() {
  const folder = mkdtempSync(join(tmpdir(), 'ws4redis-types-'));
  try {
    const tsc = here('node_modules/typescript/lib/tsc.js');
    const emit = ['--noEmit', 'false', '--declaration', '--emitDeclarationOnly', '--outDir', folder];
    execFileSync(process.execPath, [tsc, '-p', here('tsconfig.json'), ...emit], { stdio: ['ignore', 2, 2] });
    return readFileSync(join(folder, 'types.d.ts'), 'utf8');
  } finally {
    rmSync(folder, { recursive: true });
  }
}

const declared = types();
const files = {
  'ws4redis.js': await script('classic.ts', 'iife'),
  'ws4redis.mjs': await script('module.ts', 'esm'),
  'ws4redis.d.ts': `${banner}
${declared.replace(/^export declare /gm, 'declare ').replace(/^export /gm, '')}
declare var WS4Redis: WS4Redis.Constructor;
`,
  'ws4redis.d.mts': `${banner}
${declared}
export declare const ws4redis: ws4redis.Connect;
export declare const connect: ws4redis.ConnectPage;
export declare const WS4Redis: WS4Redis.Constructor;
${NAMED.map((name) => `export type ${name} = ws4redis.${name};\n`).join('')}declare const all: ws4redis.Connect & { connect: ws4redis.ConnectPage };
export default all;
`,
};
for (const [name, content] of Object.entries(files)) writeFileSync(join(target, name), content);
