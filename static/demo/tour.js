// The tour, section by section.
import { startAddress } from './address.js';
import { startChat } from './chat.js';
import { startEcho } from './echo.js';
import { startKept } from './kept.js';
import { startOneSocket } from './onesocket.js';
import { startSnippets } from './snippets.js';
import { startSocketIo } from './socketio.js';
import { startWhoami } from './whoami.js';

startChat();
startWhoami();
startKept();
startEcho();
startOneSocket();
startSocketIo();
startSnippets(startAddress);
