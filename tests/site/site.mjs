// The Django site behind nginx and TLS, in a browser:
//
//   SITE_PYTHON=… node tests/site/site.mjs chromium|firefox FIRST_PORT
//
// The last line is `N passed, N failed`.
import * as chats from './chats.mjs';
import * as outages from './outages.mjs';
import * as socketio from './socketio.mjs';
import { withVisitors } from './visitors.mjs';

const [browser, firstPort] = process.argv.slice(2);
const scenarios = [
  chats.chat,
  chats.manySockets,
  chats.oldTemplates,
  chats.refusals,
  chats.tokens,
  chats.logout,
  socketio.clients,
  socketio.restart,
  socketio.logout,
  outages.restarts,
  outages.network,
  outages.hidden,
  outages.fallback,
];
/** Comma-separated names of scenarios; by default all run. */
const only = process.env.ONLY?.split(',');

await withVisitors(browser, 'Nginx', firstPort, 300_000, async (context) => {
  for (const scenario of scenarios) if (!only || only.includes(scenario.name)) await scenario(context);
});
