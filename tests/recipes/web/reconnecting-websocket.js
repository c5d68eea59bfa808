import ReconnectingWebSocket from 'reconnecting-websocket';
import { address, isFinal } from './address.js';
import { room, show } from './page.js';

const socket = new ReconnectingWebSocket(address(`chat-${room}`));
socket.addEventListener('message', ({ data }) => show(JSON.parse(data)));
socket.addEventListener('close', ({ code }) => isFinal(code) && socket.close());
