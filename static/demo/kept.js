// The last value of a channel, replayed to new connections.
import { message, open, opened } from './connections.js';
import { watchReachable } from './log.js';
import { bounded, shown } from './messages.js';
import { byId, duration, element, expire, FACILITY, showSendable, since, tell } from './page.js';

const ROOM = `${FACILITY}-kept`;
const results = bounded(byId('newcomers'), 20);
let count = 0;

function addEntry(name, text, data) {
  return results.add(element('b', name), element('span', text, 'text'), ...(data === undefined ? [] : [shown(data)]));
}

async function publish(value) {
  const start = performance.now();
  // With echo its own message comes back once Redis has it.
  const socket = open('Publisher', ROOM, { subscribe: 'broadcast', publish: 'broadcast', echo: true, queue: 1 });
  socket.send(value).catch(() => {});
  await opened(socket);
  const received = await message(socket, (data) => data === value, 5000);
  socket.close();
  if (received === undefined) addEntry('Publisher', 'it did not come back from Redis: see the log').dataset.kind = 'error';
  else addEntry('Publisher', `connected, published, left, in ${since(start)}:`, value);
}

async function newcomer() {
  count += 1;
  const name = `Newcomer ${count}`;
  const socket = open(name, ROOM, { subscribe: 'broadcast' });
  const first = message(socket, undefined, 30_000);
  await opened(socket);
  const start = performance.now();
  const nothing = new Promise((resolve) => setTimeout(resolve, 1000));
  const value = await Promise.race([first, nothing]);
  const after = since(start);
  socket.close();
  if (value === undefined) addEntry(name, 'connected, and received nothing: no message is persisted');
  else addEntry(name, `connected, and got this ${after} later:`, value);
}

export function startKept() {
  const time =
    expire > 0 ? `for ${duration(expire)} (the setting expire)` : 'if expire is above 0, which it is not here';
  byId('kept-time').textContent = time;
  byId('keep-value').value = `blue, chosen at ${new Date().toLocaleTimeString('en-GB')}`;
  const outcome = byId('keep-outcome');
  let canSend = false;
  watchReachable((isReachable) => {
    canSend = isReachable;
    showSendable(byId('keep'), canSend);
    if (canSend) tell(outcome, '');
  });
  byId('keep').addEventListener('submit', (event) => {
    event.preventDefault();
    const { value } = byId('keep-value');
    if (!canSend) tell(outcome, 'Not published: there is no connection.', true);
    else if (value) publish(value);
  });
  byId('newcomer').addEventListener('click', newcomer);
  newcomer();
}
