// The same site in short behind another proxy, in Chromium:
//
//   SITE_PYTHON=… node tests/site/fronts.mjs Haproxy|Caddy FIRST_PORT
//
// Closes with the line `N passed, N failed`.
import { chat, logout, oldTemplates } from './chats.mjs';
import { reconnects } from './outages.mjs';
import { onStage } from './stage.mjs';

const [proxy, firstPort] = process.argv.slice(2);

await onStage('chromium', proxy, firstPort, 150_000, async (stage) => {
  for (const act of [chat, oldTemplates, reconnects, logout]) await act(stage);
});
