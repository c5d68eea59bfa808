// Connections to the gateway, each with a name under which the log tells of it.
import { ws4redis } from '../ws4redis.mjs';
import { watch } from './log.js';
import { heartbeat, pathOf } from './page.js';

export function open(name, facility, options) {
  const socket = ws4redis(pathOf(facility), { heartbeat, ...options });
  watch(name, socket);
  return socket;
}

/** Resolves when it is open. */
export function opened(socket) {
  if (socket.state === 'open') return Promise.resolve();
  return new Promise((resolve) => socket.addEventListener('open', resolve, { once: true }));
}

/** Resolves to the first message that `fits`, or to undefined when it takes too long. */
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
