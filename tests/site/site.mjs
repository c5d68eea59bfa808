// The Django site behind nginx and TLS, in a browser:
//
//   SITE_PYTHON=… node tests/site/site.mjs chromium|firefox FIRST_PORT
//
// Closes with the line `N passed, N failed`.
import * as chats from './chats.mjs';
import * as outages from './outages.mjs';
import { onStage } from './stage.mjs';

const [browser, firstPort] = process.argv.slice(2);
const acts = [
  chats.chat,
  chats.crowd,
  chats.oldTemplates,
  chats.refusals,
  chats.tokens,
  chats.logout,
  outages.restarts,
  outages.network,
  outages.hidden,
  outages.fallback,
];
/** Some of them, by name. */
const only = process.env.ONLY?.split(',');

await onStage(browser, 'Nginx', firstPort, 240_000, async (stage) => {
  for (const act of acts) if (!only || only.includes(act.name)) await act(stage);
});
