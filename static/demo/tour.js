// The tour, section by section.
import { startAddress } from './address.js';
import { startChat } from './chat.js';
import { startEcho } from './echo.js';
import { startKept } from './kept.js';
import { startOneSocket } from './onesocket.js';
import { showDocs, watchTabs } from './page.js';
import { startSnippets } from './snippets.js';
import { startSocketIo } from './socketio.js';
import { startWhoami } from './whoami.js';

showDocs();
watchTabs();
startChat();
startWhoami();
startKept();
startEcho();
startOneSocket();
startSocketIo();
startSnippets(startAddress);
