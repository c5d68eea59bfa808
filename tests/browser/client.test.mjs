// The rules of static/ws4redis.js, with a fake WebSocket and fake timers.
import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { afterEach, beforeEach, mock, test } from 'node:test';
import { fileURLToPath } from 'node:url';
import { gzipSync } from 'node:zlib';
import vm from 'node:vm';

const file = fileURLToPath(new URL('../../static/ws4redis.js', import.meta.url));
const source = readFileSync(file, 'utf8');
const TIMERS = ['setTimeout', 'clearTimeout', 'setInterval', 'clearInterval'];
const URI = 'ws://example.test/ws/foobar?subscribe-broadcast&echo';
const BEAT = '--heartbeat--';
const HOUR = 3_600_000;

let sockets;
let pending;
let random;
let original;

class FakeWebSocket {
  constructor(uri) {
    if (!uri.startsWith('ws')) throw new SyntaxError(`bad URL ${uri}`);
    this.uri = uri;
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

  // What the network does:
  opens() {
    this.readyState = 1;
    this.onopen({});
  }

  brings(data) {
    this.onmessage({ data });
  }

  ends(code = 1006, reason = '') {
    this.readyState = 3;
    this.onclose({ code, reason, wasClean: code !== 1006 });
  }
}

/** Counts the timers that have been set and neither run nor been cleared. */
function watchTimers() {
  const real = Object.fromEntries(TIMERS.map((name) => [name, globalThis[name]]));
  globalThis.setTimeout = (callback, ms) => {
    const id = real.setTimeout(() => {
      pending.delete(id);
      callback();
    }, ms);
    pending.set(id, ms);
    return id;
  };
  globalThis.setInterval = (callback, ms) => {
    const id = real.setInterval(callback, ms);
    pending.set(id, ms);
    return id;
  };
  for (const kind of ['Timeout', 'Interval']) {
    globalThis[`clear${kind}`] = (id) => {
      pending.delete(id);
      real[`clear${kind}`](id);
    };
  }
  return real;
}

beforeEach(() => {
  sockets = [];
  pending = new Map();
  mock.timers.enable({ apis: ['setTimeout', 'setInterval'] });
  original = watchTimers();
  random = mock.method(Math, 'random', () => 0.5);
  globalThis.WebSocket = FakeWebSocket;
  vm.runInThisContext(source, { filename: file });
});

afterEach(() => {
  Object.assign(globalThis, original);
  mock.timers.reset();
  mock.restoreAll();
  delete globalThis.WS4Redis;
});

const last = () => sockets.at(-1);
const client = (options = {}) => new WS4Redis({ uri: URI, ...options });
/** The delay of the retry that is pending, in milliseconds. */
const delay = () => {
  assert.equal(pending.size, 1, 'one timer is pending');
  return [...pending.values()][0];
};

test('the file is under 8 kB gzipped and sets one global', () => {
  assert.ok(gzipSync(source).length < 8000);
  const sandbox = vm.createContext({});
  vm.runInContext(source, sandbox);
  assert.deepEqual(Object.keys(sandbox), ['WS4Redis']);
});

test('connects at once to the uri as it is', () => {
  const seen = [];
  client({ connecting: () => seen.push('connecting'), connected: () => seen.push('connected') });
  assert.equal(last().uri, URI);
  assert.deepEqual(seen, ['connecting']);
  last().opens();
  assert.deepEqual(seen, ['connecting', 'connected']);
});

test('works without new, and as a method', () => {
  const made = WS4Redis({ uri: URI });
  assert.ok(made instanceof WS4Redis);
  const namespace = { WS4Redis };
  assert.ok(namespace.WS4Redis({ uri: URI }, {}) instanceof WS4Redis);
  assert.equal(sockets.length, 2);
});

test('a missing or impossible uri throws', () => {
  assert.throws(() => new WS4Redis({}), /uri/);
  assert.throws(() => new WS4Redis(), /uri/);
  assert.throws(() => new WS4Redis({ uri: 'nonsense' }), SyntaxError);
  assert.equal(pending.size, 0);
});

test('jQuery is neither needed nor used', () => {
  const trap = new Proxy(function () {}, {
    get: () => assert.fail('jQuery used'),
    apply: () => assert.fail('jQuery used'),
  });
  new WS4Redis({ uri: URI }, trap);
  last().opens();
  last().ends();
});

test('callbacks get what upstream hands them', () => {
  const calls = [];
  const note =
    (name) =>
    (...args) =>
      calls.push([name, ...args]);
  client({
    connecting: note('connecting'),
    connected: note('connected'),
    disconnected: note('disconnected'),
    receive_message: note('receive_message'),
  });
  last().opens();
  last().brings('Hello');
  last().ends(1001, 'bye');
  assert.deepEqual(calls, [
    ['connecting'],
    ['connected'],
    ['receive_message', 'Hello'],
    ['disconnected', { code: 1001, reason: 'bye', wasClean: true }],
  ]);
});

test('binary messages arrive as they are', () => {
  const got = [];
  client({ receive_message: (data) => got.push(data), heartbeat_msg: BEAT });
  last().opens();
  assert.equal(last().binaryType, 'arraybuffer');
  const bytes = new Uint8Array([0, 255]).buffer;
  last().brings(bytes);
  assert.equal(got[0], bytes);
});

test('send_message and the state methods', () => {
  const ws = client();
  const states = () => [ws.get_state(), ws.is_connecting(), ws.is_connected(), ws.is_closing(), ws.is_closed()];
  assert.deepEqual(states(), [0, true, false, false, false]);
  assert.throws(() => ws.send_message('too early'));
  last().opens();
  assert.deepEqual(states(), [1, false, true, false, false]);
  ws.send_message('Hello');
  assert.deepEqual(last().sent, ['Hello']);
  ws.close();
  assert.deepEqual(states(), [2, false, false, true, false]);
  last().ends(1000);
  assert.deepEqual(states(), [3, false, false, false, true]);
});

test('methods work when taken off the object', () => {
  const { send_message, close, is_connected } = client();
  last().opens();
  send_message('Hello');
  assert.equal(is_connected(), true);
  close();
  assert.deepEqual([last().sent, last().closeCalls], [['Hello'], 1]);
});

test('reconnect delays are random in [0, min(30, 2^k - 1)) seconds', () => {
  const limits = [1, 3, 7, 15, 30, 30, 30];
  for (const roll of [0, 0.5, 0.999999]) {
    random.mock.mockImplementation(() => roll);
    const before = sockets.length;
    client();
    for (const [i, limit] of limits.entries()) {
      last().ends();
      assert.ok(Math.abs(delay() - roll * limit * 1000) < 1e-6, `retry ${i + 1} waits ${delay()} ms`);
      assert.ok(delay() < limit * 1000);
      mock.timers.tick(Math.ceil(delay()) + 1);
      assert.equal(sockets.length, before + i + 2);
      assert.equal(last().uri, URI);
    }
    last().ends(1008);
  }
});

test('after very many attempts the delay is still below 30 s', () => {
  client();
  for (let i = 0; i < 1100; i += 1) {
    last().ends();
    assert.ok(delay() < 30_000);
    mock.timers.tick(30_000);
  }
  assert.equal(sockets.length, 1101);
});

test('no attempt before the delay is over', () => {
  client();
  last().ends();
  mock.timers.tick(499);
  assert.equal(sockets.length, 1);
  mock.timers.tick(1);
  assert.equal(sockets.length, 2);
});

test('an open connection resets the delay', () => {
  client();
  for (let i = 0; i < 4; i += 1) {
    last().ends();
    mock.timers.tick(30_000);
  }
  last().opens();
  last().ends();
  assert.equal(delay(), 500);
});

test('reconnecting tells delay and attempt, after disconnected', () => {
  const calls = [];
  client({
    disconnected: () => calls.push('disconnected'),
    reconnecting: (ms, attempt) => calls.push([ms, attempt]),
  });
  last().ends();
  mock.timers.tick(500);
  last().ends();
  assert.deepEqual(calls, ['disconnected', [500, 1], 'disconnected', [1500, 2]]);
});

test('heartbeats go out every 5 s while open, and only then', () => {
  client({ heartbeat_msg: BEAT });
  mock.timers.tick(4999);
  assert.equal(pending.size, 0);
  last().opens();
  mock.timers.tick(4999);
  assert.deepEqual(last().sent, []);
  mock.timers.tick(1);
  assert.deepEqual(last().sent, [BEAT]);
  last().ends();
  const [first] = sockets;
  assert.equal(pending.size, 1, 'the retry only, the interval has stopped');
  mock.timers.tick(HOUR);
  assert.deepEqual(first.sent, [BEAT]);
});

test('without heartbeat_msg there is no heartbeat', () => {
  for (const heartbeat_msg of [undefined, null, '']) {
    client({ heartbeat_msg });
    last().opens();
    assert.equal(pending.size, 0);
  }
});

test('the fourth silent tick closes the socket', () => {
  client({ heartbeat_msg: BEAT });
  last().opens();
  mock.timers.tick(15_000);
  assert.deepEqual([last().sent.length, last().closeCalls], [3, 0]);
  mock.timers.tick(5000);
  assert.deepEqual([last().sent.length, last().closeCalls, pending.size], [3, 1, 0]);
  last().ends();
  mock.timers.tick(1000);
  assert.equal(sockets.length, 2, 'and it reconnects');
});

test('a heartbeat that comes back resets the counter and is swallowed', () => {
  const got = [];
  client({ heartbeat_msg: BEAT, receive_message: (data) => got.push(data) });
  last().opens();
  for (let i = 0; i < 20; i += 1) {
    mock.timers.tick(15_000);
    last().brings(BEAT);
  }
  last().brings('Hello');
  assert.equal(last().closeCalls, 0);
  assert.deepEqual(got, ['Hello']);
});

test('other messages do not reset the counter', () => {
  client({ heartbeat_msg: BEAT });
  last().opens();
  for (let i = 0; i < 4; i += 1) {
    last().brings('Hello');
    mock.timers.tick(5000);
  }
  assert.equal(last().closeCalls, 1);
});

test('the counter starts anew with each connection', () => {
  client({ heartbeat_msg: BEAT });
  last().opens();
  mock.timers.tick(15_000);
  last().ends();
  mock.timers.tick(1000);
  last().opens();
  mock.timers.tick(15_000);
  assert.equal(last().closeCalls, 0);
});

test('close() leaves no timers: while open', () => {
  let ended = 0;
  const ws = client({ heartbeat_msg: BEAT, disconnected: () => (ended += 1) });
  last().opens();
  assert.equal(pending.size, 1);
  ws.close();
  assert.equal(pending.size, 0);
  last().ends(1000);
  assert.deepEqual([pending.size, ended], [0, 1]);
  mock.timers.tick(HOUR);
  assert.equal(sockets.length, 1);
});

test('close() leaves no timers: while waiting, and twice', () => {
  const ws = client();
  last().ends();
  assert.equal(pending.size, 1);
  ws.close();
  ws.close();
  assert.equal(pending.size, 0);
  mock.timers.tick(HOUR);
  assert.equal(sockets.length, 1);
});

test('close() leaves no timers: while connecting', () => {
  const ws = client({ heartbeat_msg: BEAT });
  ws.close();
  last().ends(1006);
  assert.equal(pending.size, 0);
});

test('close() works inside every callback', () => {
  for (const name of ['connecting', 'connected', 'disconnected', 'reconnecting', 'receive_message']) {
    let ws = null;
    const before = sockets.length;
    const seen = [];
    ws = client({
      heartbeat_msg: BEAT,
      reconnecting: () => seen.push('reconnecting'),
      [name]: () => ws?.close(),
    });
    last().opens();
    last().brings('Hello');
    last().ends();
    mock.timers.tick(HOUR);
    assert.equal(pending.size, 0, `after close() in ${name}`);
    assert.equal(sockets.length, before + 1, `after close() in ${name}`);
    if (name === 'disconnected') assert.deepEqual(seen, []);
  }
});

test('a callback that throws does not end the reconnecting', () => {
  client({
    disconnected: () => {
      throw new Error('the page has a bug');
    },
  });
  assert.throws(() => last().ends(), /bug/);
  mock.timers.tick(1000);
  assert.equal(sockets.length, 2);
});

test('4401 reconnects once and then stops', () => {
  const told = [];
  client({ reconnecting: () => told.push('again') });
  last().opens();
  last().ends(4401, 'session ended');
  mock.timers.tick(1000);
  assert.equal(sockets.length, 2);
  last().opens();
  last().ends(4401, 'session ended');
  assert.equal(pending.size, 0);
  mock.timers.tick(HOUR);
  assert.equal(sockets.length, 2);
  assert.deepEqual(told, ['again']);
});

test('4401 and then a refused handshake stops', () => {
  client();
  last().opens();
  last().ends(4401);
  mock.timers.tick(1000);
  last().ends(1006);
  assert.equal(pending.size, 0);
});

test('4401, open again: later losses reconnect as ever', () => {
  client();
  last().opens();
  last().ends(4401);
  mock.timers.tick(1000);
  last().opens();
  last().ends(1006);
  mock.timers.tick(1000);
  last().ends(1006);
  mock.timers.tick(3000);
  assert.equal(sockets.length, 4);
  last().opens();
  last().ends(4401);
  assert.equal(pending.size, 0);
});

test('1008 and the other 4400–4499 stop', () => {
  for (const code of [1008, 4400, 4402, 4403, 4499]) {
    const before = sockets.length;
    const seen = [];
    client({ disconnected: (event) => seen.push(event.code), reconnecting: () => seen.push('again') });
    last().opens();
    last().ends(code);
    mock.timers.tick(HOUR);
    assert.deepEqual([seen, pending.size, sockets.length], [[code], 0, before + 1]);
  }
});

test('all other codes reconnect', () => {
  for (const code of [1000, 1001, 1005, 1006, 1009, 1011, 1012, 1013, 3000, 4399, 4500]) {
    const ws = client();
    last().opens();
    last().ends(code);
    assert.equal(pending.size, 1, `after ${code}`);
    ws.close();
  }
});
