// The connection log: the events of every connection of this page.
import { bounded } from './messages.js';
import { byId, element } from './page.js';

const CODES = {
  1000: 'normal',
  1001: 'the other end goes away',
  1002: 'protocol error',
  1005: 'no code given',
  1006: 'refused or lost',
  1007: 'text that is not UTF-8',
  1008: 'not allowed',
  1009: 'message too big',
  1011: 'no answer to a ping, or a message may be lost',
  1012: 'the gateway restarts',
  1013: 'too slow, or too busy: try again later',
  4401: 'the session or token has ended',
};
const BY = { websocket: 'WebSocket', sse: 'server-sent events, while no WebSocket gets through' };
const STATES = { 'session-ended': 'session ended', waiting: 'waiting' };

const log = bounded(byId('log-lines'));
const lines = new Map();

export function note(name, text, kind = '') {
  const item = log.add(element('b', name), element('span', text, 'text'));
  item.dataset.kind = kind;
  return item;
}

/** Logs a connection from its start to its end. */
export function watch(name, socket) {
  const row = element('li');
  const state = element('span', undefined, 'state');
  const line = { row, socket, due: null, state, attempt: 1, wasOpen: false, failure: null };
  row.append(element('b', name), state);
  byId('connections').append(row);
  lines.set(socket, line);
  note(name, `connecting to ${socket.url}`, 'connecting');
  show(line);

  socket.addEventListener('state', ({ state: now, delay }) => {
    line.due = delay === undefined ? null : Date.now() + delay;
    // Further attempts are told in the line of the first one that failed.
    if (now === 'connecting') line.attempt += 1;
    if (now === 'open') {
      note(name, `open, by ${BY[socket.transport]}`, now);
      Object.assign(line, { attempt: 0, wasOpen: true, failure: null });
    }
    if (now === 'session-ended') note(name, 'the session has ended: connecting again with the current cookie', now);
    show(line);
  });
  socket.addEventListener('transport', () => {
    note(name, `changed over to ${BY[socket.transport]}`, 'open');
    show(line);
  });
  socket.addEventListener('gap', () => note(name, 'was away: messages may have been missed, the kept one follows'));
  socket.addEventListener('close', ({ code, reason, final }) => {
    const meaning = CODES[code] ?? 'no meaning known here';
    const seconds = `${((line.due - Date.now()) / 1000).toFixed(1)} s`;
    const isFolded = line.failure !== null;
    const next = final ? 'for good' : isFolded ? `attempt ${line.attempt}, next in ${seconds}` : `next attempt in ${seconds}`;
    const text = `closed with ${code}: ${meaning}${reason ? ` (“${reason}”)` : ''}; ${next}`;
    if (isFolded) line.failure.querySelector('.text').textContent = text;
    else {
      const item = note(name, text, code === 1000 ? '' : 'closed');
      // The end of an open connection keeps its line.
      if (line.attempt > 0) line.failure = item;
    }
    // Refused ones stay visible.
    if (final && code === 1000) {
      row.remove();
      lines.delete(socket);
    }
    show(line);
  });
}

function show({ row, socket, due, state, attempt }) {
  row.dataset.state = socket.state;
  const left = due === null ? '' : `, ${Math.max(0, Math.ceil((due - Date.now()) / 1000))} s`;
  const tries = attempt > 1 && socket.state !== 'open' ? `, attempt ${attempt}` : '';
  const by = socket.transport === 'sse' ? ', by events' : '';
  state.textContent = (STATES[socket.state] ?? socket.state) + by + left + tries;
  showOverall();
}

/** One word for all connections. Screen readers announce its changes, but not the countdown. */
function showOverall() {
  const all = [...lines.values()].map(({ wasOpen, socket }) => ({ wasOpen, state: socket.state }));
  const isUnderWay = ({ state }) => state !== 'open' && state !== 'closed';
  let overall = 'connecting';
  if (all.length && all.every(({ state }) => state === 'open')) overall = 'open';
  // Before the first connection there is none to restore.
  else if (all.some((one) => one.wasOpen && isUnderWay(one))) overall = 'waiting';
  else if (all.length && !all.some(isUnderWay)) overall = 'closed';
  const box = byId('overall');
  const text = { open: 'connected', connecting: 'connecting', waiting: 'reconnecting', closed: 'refused: see the log' };
  if (box.dataset.state === overall) return;
  box.dataset.state = overall;
  box.querySelector('.text').textContent = text[overall];
}

setInterval(() => {
  for (const line of lines.values()) if (line.due !== null) show(line);
}, 500);
