// A simulated browser for the tests of static/ws4redis.js: a WebSocket and a clock that the test drives, and a page with
// visibility and network state.
import { readFileSync } from 'node:fs';
import { afterEach, beforeEach, mock } from 'node:test';
import { fileURLToPath } from 'node:url';
import vm from 'node:vm';

export const file = fileURLToPath(new URL('../../static/ws4redis.js', import.meta.url));
export const source = readFileSync(file, 'utf8');
export const HEARTBEAT = '--heartbeat--';
export const HOUR = 3_600_000;

/** All sockets of the test, the latest last. */
export const sockets = [];
export const last = () => sockets.at(-1);

export class FakeWebSocket {
  constructor(uri, protocols = []) {
    if (!uri.startsWith('ws')) throw new SyntaxError(`bad URL ${uri}`);
    this.uri = uri;
    this.protocols = protocols;
    this.readyState = 0;
    this.sent = [];
    this.closeCalls = 0;
    sockets.push(this);
  }

  send(message) {
    if (this.readyState === 0) throw new Error('InvalidStateError');
    this.sent.push(message);
  }

  close() {
    this.closeCalls += 1;
    if (this.readyState < 2) this.readyState = 2;
  }

  // Called by tests in the role of the network:
  opens(protocol = '') {
    this.protocol = protocol;
    this.readyState = 1;
    this.onopen({});
  }

  delivers(data) {
    this.onmessage({ data });
  }

  ends(code = 1006, reason = '') {
    this.readyState = 3;
    this.onclose({ code, reason, wasClean: code !== 1006 });
  }
}

/** A clock that advances only by `tick` and `sleep`. Unlike node's mock timers it can jump, as after a suspend. */
class Clock {
  now = 1_800_000_000_000;
  /** Timers that have neither run nor been cleared: due time, interval, callback. */
  timers = new Map();
  serial = 0;

  set(callback, ms, every) {
    this.timers.set((this.serial += 1), { due: this.now + ms, ms, every, callback });
    return this.serial;
  }

  get size() {
    return this.timers.size;
  }

  /** The delay of the only timer, in milliseconds. */
  get delay() {
    if (this.size !== 1) throw new Error(`${this.size} timers are set, not one`);
    return [...this.timers.values()][0].ms;
  }

  tick(ms) {
    const end = this.now + ms;
    for (;;) {
      const [next] = [...this.timers].sort(([, a], [, b]) => a.due - b.due);
      if (!next || next[1].due > end) break;
      const [id, timer] = next;
      this.now = Math.max(this.now, timer.due);
      // A late interval does not catch up.
      if (timer.every) timer.due = this.now + timer.every;
      else this.timers.delete(id);
      timer.callback();
    }
    this.now = end;
  }

  /** Suspends the machine: each timer that was due meanwhile runs once, after the resume. */
  sleep(ms) {
    this.now += ms;
    this.tick(0);
  }
}

export let clock;
/** The window, target of `online`. */
export let page;
export let random;

/** Runs pending promise callbacks. */
export const settle = () => new Promise((resolve) => setImmediate(resolve));

/** Installs a new page for each test; with `realTime` the timers are node's. */
export function browser({ realTime = false } = {}) {
  const faked = [];
  const fake = (name, value) => {
    faked.push([name, Object.getOwnPropertyDescriptor(globalThis, name)]);
    Object.defineProperty(globalThis, name, { value, configurable: true, writable: true });
  };

  beforeEach(() => {
    sockets.length = 0;
    clock = new Clock();
    page = new EventTarget();
    random = mock.method(Math, 'random', () => 0.5);
    if (!realTime) {
      mock.method(Date, 'now', () => clock.now);
      fake('setTimeout', (callback, ms) => clock.set(callback, ms));
      fake('setInterval', (callback, ms) => clock.set(callback, ms, ms));
      fake('clearTimeout', (id) => clock.timers.delete(id));
      fake('clearInterval', (id) => clock.timers.delete(id));
    }
    fake('WebSocket', FakeWebSocket);
    fake('location', { href: 'https://example.test/page?x#top' });
    fake('navigator', { onLine: true });
    fake('document', Object.assign(new EventTarget(), { hidden: false }));
    fake('addEventListener', page.addEventListener.bind(page));
    fake('fetch', () => Promise.reject(new TypeError('failed to fetch')));
    vm.runInThisContext(source, { filename: file });
  });

  afterEach(() => {
    for (const [name, descriptor] of faked.splice(0).reverse()) {
      if (descriptor) Object.defineProperty(globalThis, name, descriptor);
      else delete globalThis[name];
    }
    mock.restoreAll();
    delete globalThis.WS4Redis;
  });
}

/** Makes the constructor of WebSocket throw the value of `error()` unless that is null or undefined. */
export function constructorThrows(error) {
  globalThis.WebSocket = class extends FakeWebSocket {
    constructor(...args) {
      const thrown = error();
      if (thrown) throw thrown;
      super(...args);
    }
  };
}

/** The error that a browser throws for ws: on an https: page. */
export const securityError = () => new DOMException('An insecure connection may not be initiated', 'SecurityError');

/** Runs `body`; returns the messages of all uncaught errors in it. */
export async function uncaughtIn(body) {
  const errors = [];
  const note = ({ message }) => errors.push(message);
  const ofTheRunner = process.listeners('unhandledRejection');
  process.removeAllListeners('unhandledRejection').on('unhandledRejection', note);
  process.setUncaughtExceptionCaptureCallback(note);
  try {
    await body();
    await settle();
  } finally {
    process.setUncaughtExceptionCaptureCallback(null);
    process.removeAllListeners('unhandledRejection');
    for (const listener of ofTheRunner) process.on('unhandledRejection', listener);
  }
  return errors;
}

/** Sets navigator.onLine and fires the event. */
export function setOnline(online) {
  navigator.onLine = online;
  page.dispatchEvent(new Event(online ? 'online' : 'offline'));
}

/** Shows or hides the tab and fires the event. */
export function setVisible(shown) {
  document.hidden = !shown;
  document.dispatchEvent(new Event('visibilitychange'));
}

/** Records the events of a socket of the modern API: names of states, and other events with their fields. */
export function watch(socket) {
  const seen = [];
  socket.addEventListener('state', ({ state }) => seen.push(state));
  socket.addEventListener('open', () => seen.push('+open'));
  socket.addEventListener('gap', () => seen.push('+gap'));
  socket.addEventListener('message', ({ data }) => seen.push(['message', data]));
  socket.addEventListener('close', ({ code, final }) => seen.push(['close', code, ...(final ? ['final'] : [])]));
  return seen;
}
