import { EMPTY, repeat, retry, timer } from 'rxjs';
import { webSocket } from 'rxjs/webSocket';
import { address, isFinal } from './address.js';
import { room, show } from './page.js';

let code;
const socket = webSocket({
  url: address(`chat-${room}`),
  closeObserver: { next: (event) => (code = event.code) },
});
const wait = () => (isFinal(code) ? EMPTY : timer(1000 + 4000 * Math.random()));
// A clean close completes, and only repeat() subscribes again after that.
socket.pipe(retry({ delay: wait }), repeat({ delay: wait })).subscribe(show);
