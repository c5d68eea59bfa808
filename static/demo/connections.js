// Connections to the gateway, each with its name in the log. The classic script's global lets visitors run the page's
// snippets in the console.
import '../ws4redis.js';
import { watch } from './log.js';
import { heartbeat, pathOf } from './page.js';

export function open(name, facility, options) {
  const socket = globalThis.WS4Redis.connect(pathOf(facility), { heartbeat, ...options });
  watch(name, socket);
  return socket;
}

/** Resolves when the socket is open. */
export function opened(socket) {
  if (socket.state === 'open') return Promise.resolve();
  return new Promise((resolve) => socket.addEventListener('open', resolve, { once: true }));
}

/** Resolves to the first message that `fits`, or to undefined after `patience` milliseconds. */
export function message(socket, fits = () => true, patience = 2000) {
  return new Promise((resolve) => {
    const ended = new AbortController();
    const done = (data) => {
      clearTimeout(timer);
      ended.abort();
      resolve(data);
    };
    const timer = setTimeout(done, patience);
    socket.addEventListener('message', ({ data }) => fits(data) && done(data), { signal: ended.signal });
  });
}
