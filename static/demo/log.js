// The connection log: the events of every connection of this page. Failed attempts of a connection share one entry.
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
const lines = new Set();
const watchers = new Set();

export function note(name, text, kind = '') {
  const item = log.add(element('b', name), element('span', text, 'text'));
  item.dataset.kind = kind;
  return item;
}

/** What a close event says, in words. */
function closed({ code, reason }) {
  return `closed with ${code}: ${CODES[code] ?? 'no meaning known here'}${reason ? ` (“${reason}”)` : ''}`;
}

/**
 * Adds a connection to the list, as connecting. An optional one does not change the state of the page.
 * A failed attempt calls `failed` and `waits`, in either order.
 */
export function follow(name, isOptional = false) {
  const row = element('li');
  const label = element('span', undefined, 'state');
  const line = { name, row, label, isOptional, state: 'connecting', by: '', due: null, attempt: 1, wasOpen: false, entry: null, text: '' };
  row.append(element('b', name), label);
  byId('connections').append(row);
  lines.add(line);
  const change = (changes) => {
    Object.assign(line, changes);
    show(line);
  };
  change({});

  return {
    connecting() {
      if (line.state === 'connecting') return;
      change({ state: 'connecting', due: null, attempt: line.attempt + 1 });
      // The end of an open connection keeps its entry: the attempts after it have one of their own.
      if (line.attempt === 1) line.entry = null;
    },
    opened(text, by = '') {
      const failures = line.entry === null ? 0 : line.attempt - 1;
      if (failures > 0) write(line, `; ${failures} ${failures === 1 ? 'attempt' : 'attempts'} failed`);
      note(name, text, 'open');
      change({ state: 'open', by, due: null, attempt: 0, wasOpen: true, entry: null });
    },
    changed(text, by) {
      note(name, text, 'open');
      change({ by });
    },
    waits(milliseconds, state = 'waiting') {
      change({ state, by: '', due: Date.now() + milliseconds });
    },
    failed(text) {
      line.text = text;
      // An entry that the log has dropped is not written again.
      if (!line.entry?.isConnected) line.entry = note(name, text, 'closed');
      show(line);
    },
    /** There is no further attempt. A refused connection stays in the list, one that was closed here does not. */
    ended(text, isRefused) {
      if (isRefused && line.entry) {
        line.text = text;
        write(line, '; for good');
      } else note(name, `${text}; for good`, isRefused ? 'closed' : '');
      change({ state: 'closed', due: null, entry: null });
      if (isRefused) return;
      row.remove();
      lines.delete(line);
      showOverall();
    },
  };
}

/** Passes the states and ends of a socket or a page of the client on to its line. */
export function track(line, client, opened) {
  client.addEventListener('state', ({ state, delay }) => {
    if (state === 'open') opened();
    else if (delay !== undefined) line.waits(delay, state);
    else if (state === 'connecting') line.connecting();
  });
  client.addEventListener('close', (event) => {
    if (event.final) line.ended(closed(event), event.code !== 1000);
    else line.failed(closed(event));
  });
}

/** Logs a connection from its start to its end. */
export function watch(name, socket) {
  const line = follow(name);
  note(name, `connecting to ${socket.url}`, 'connecting');
  const by = () => (socket.transport === 'sse' ? ', by events' : '');
  socket.addEventListener('state', ({ state }) => {
    if (state === 'session-ended') note(name, 'the session has ended: connecting again with the current cookie', state);
  });
  track(line, socket, () => line.opened(`open, by ${BY[socket.transport]}`, by()));
  socket.addEventListener('transport', () => line.changed(`changed over to ${BY[socket.transport]}`, by()));
  socket.addEventListener('gap', () => note(name, 'was away: messages may have been missed, the kept one follows'));
}

/** Calls the function with whether the gateway can be reached, now and at each change. */
export function watchReachable(change) {
  watchers.add(change);
  change(isReachable);
}

let isReachable = false;

function write({ entry, text }, end) {
  const place = entry.querySelector('.text');
  if (place.textContent === text + end) return;
  place.textContent = text + end;
  log.keepEnd();
}

function show(line) {
  const { row, label, state, by, due, attempt, entry } = line;
  const seconds = due === null ? '' : `${Math.max(0, Math.ceil((due - Date.now()) / 1000))} s`;
  const tries = attempt > 1 && state !== 'open' ? `, attempt ${attempt}` : '';
  row.dataset.state = state;
  label.textContent = (STATES[state] ?? state) + by + (seconds && `, ${seconds}`) + tries;
  if (entry) {
    const next = attempt > 0 ? `; attempt ${attempt}, next in ${seconds}` : `; next attempt in ${seconds}`;
    if (due !== null) write(line, next);
    else write(line, attempt > 1 ? `; attempt ${attempt} now` : '');
  }
  showOverall();
}

/** One word for all connections. Screen readers announce its changes, but not the countdown. */
function showOverall() {
  const all = [...lines].filter(({ isOptional }) => !isOptional);
  const isUnderWay = ({ state }) => state !== 'open' && state !== 'closed';
  let overall = 'connecting';
  if (all.length && all.every(({ state }) => state === 'open')) overall = 'open';
  // Before the first connection there is none to restore.
  else if (all.some((one) => one.wasOpen && isUnderWay(one))) overall = 'waiting';
  else if (all.length && !all.some(isUnderWay)) overall = 'closed';
  const isOpen = all.some(({ state }) => state === 'open');
  if (isOpen !== isReachable) {
    isReachable = isOpen;
    for (const change of watchers) change(isReachable);
  }
  const box = byId('overall');
  const text = { open: 'connected', connecting: 'connecting', waiting: 'reconnecting', closed: 'refused: see the log' };
  if (box.dataset.state === overall) return;
  box.dataset.state = overall;
  box.querySelector('.text').textContent = text[overall];
}

setInterval(() => {
  for (const line of lines) if (line.due !== null) show(line);
}, 500);
