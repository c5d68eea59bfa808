import { WebSocket } from 'partysocket';
import { address, isFinal } from './address.js';
import { room, show } from './page.js';

const socket = new WebSocket(address(`chat-${room}`), [], {
  shouldReconnectOnClose: ({ code }) => !isFinal(code),
});
socket.addEventListener('message', ({ data }) => show(JSON.parse(data)));
