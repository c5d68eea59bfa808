// A short form of the scenarios behind another proxy, in Chromium:
//
//   SITE_PYTHON=… node tests/site/fronts.mjs Haproxy|Caddy FIRST_PORT
//
// The last line is `N passed, N failed`.
import { chat, logout, oldTemplates } from './chats.mjs';
import { reconnects } from './outages.mjs';
import { withVisitors } from './visitors.mjs';

const [proxy, firstPort] = process.argv.slice(2);

await withVisitors('chromium', proxy, firstPort, 150_000, async (context) => {
  for (const scenario of [chat, oldTemplates, reconnects, logout]) await scenario(context);
});
