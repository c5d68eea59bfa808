// The modern API of static/ws4redis.js: address, events, messages in both directions, iteration, close.
import assert from 'node:assert/strict';
import { getEventListeners } from 'node:events';
import { test } from 'node:test';
import {
  browser,
  clock,
  constructorThrows,
  HOUR,
  last,
  page,
  securityError,
  settle,
  sockets,
  uncaughtIn,
  watch,
} from './fakes.mjs';

browser();

const PATH = '/ws/foobar';
const connect = (options) => WS4Redis.connect(PATH, { fallback: false, ...options });
const opened = (options) => {
  const socket = connect(options);
  last().opens();
  return socket;
};
const NOT_CONNECTED = { name: 'InvalidStateError' };

// ---- Address

test('the address is relative to the page, with bare flags', () => {
  for (const [page, path, options, wanted] of [
    ['https://example.test/a?b#c', '/ws/foobar', {}, 'wss://example.test/ws/foobar'],
    ['http://example.test:8000/', '/ws/foobar', {}, 'ws://example.test:8000/ws/foobar'],
    ['https://example.test/', '/ws/', { subscribe: 'broadcast' }, 'wss://example.test/ws/?subscribe-broadcast'],
    [
      'https://example.test/',
      '/ws/foobar',
      { subscribe: ['broadcast', 'user'], publish: ['user'], echo: true },
      'wss://example.test/ws/foobar?subscribe-broadcast&subscribe-user&publish-user&echo',
    ],
    [
      'https://example.test/',
      '/ws/x?subscribe-session&app=1',
      { publish: ['group'], echo: false },
      'wss://example.test/ws/x?subscribe-session&app=1&publish-group',
    ],
    ['https://example.test/', 'http://other.test/ws/x', {}, 'ws://other.test/ws/x'],
    ['https://example.test/', 'wss://other.test/ws/x', {}, 'wss://other.test/ws/x'],
    ['https://example.test/', '/ws/a%23b', {}, 'wss://example.test/ws/a%23b'],
  ]) {
    location.href = page;
    const socket = WS4Redis.connect(path, options);
    assert.equal(last().uri, wanted);
    assert.equal(socket.url, wanted);
    assert.deepEqual(last().protocols, []);
  }
});

test('options that the gateway would ignore throw', () => {
  assert.throws(() => connect({ subscribe: ['users'] }), /no audience users to subscribe/);
  assert.throws(() => connect({ publish: 'everybody' }), /no audience everybody to publish/);
  assert.throws(() => WS4Redis.connect('/ws/a#b'), /%23/);
  assert.throws(() => WS4Redis.connect('mailto:somebody'), SyntaxError);
  assert.throws(() => WS4Redis.connect('ftp://example.test/ws/'), SyntaxError);
  assert.deepEqual([clock.size, sockets.length], [0, 0]);
});

// ---- Events and states

test('the events of a connection: states, open, gap, close', () => {
  const socket = connect();
  const seen = watch(socket);
  assert.ok(socket instanceof EventTarget);
  assert.equal(socket.state, 'connecting');
  assert.equal(socket.transport, null);
  last().opens();
  assert.deepEqual([socket.state, socket.transport], ['open', 'websocket']);
  last().delivers('Hello');
  last().ends(1006);
  assert.deepEqual([socket.state, socket.transport], ['waiting', null]);
  clock.tick(1000);
  last().ends(1006);
  clock.tick(3000);
  last().opens();
  last().delivers('replayed');
  socket.close();
  assert.deepEqual([socket.state, socket.transport], ['closed', null]);
  assert.deepEqual(seen, [
    ...['open', '+open'],
    ['message', 'Hello'],
    'waiting',
    ['close', 1006],
    ...['connecting', 'waiting'],
    ['close', 1006],
    ...['connecting', 'open', '+open', '+gap'],
    ['message', 'replayed'],
    'closed',
    ['close', 1000, 'final'],
  ]);
});

test('the state event has the delay, and the close event the reason', () => {
  const socket = opened();
  let waits;
  let why;
  socket.addEventListener('state', ({ delay }) => (waits = delay));
  socket.addEventListener('close', ({ code, reason, wasClean, final }) => (why = { code, reason, wasClean, final }));
  last().ends(1011, 'no answer to a ping');
  assert.equal(waits, 500);
  assert.deepEqual(why, { code: 1011, reason: 'no answer to a ping', wasClean: true, final: false });
});

test('the final close fires once, and no event follows it', () => {
  const socket = opened();
  const seen = watch(socket);
  const inner = last();
  socket.close();
  socket.close();
  inner.delivers('late');
  inner.ends(1000);
  assert.deepEqual(seen, ['closed', ['close', 1000, 'final']]);
});

test('close() works inside every listener', () => {
  for (const type of ['state', 'open', 'gap', 'message', 'close']) {
    const socket = connect();
    if (type === 'gap') {
      last().opens();
      last().ends();
      clock.tick(1000);
    }
    const before = sockets.length;
    const seen = watch(socket);
    socket.addEventListener(type, () => socket.close());
    last().opens();
    last().delivers('Hello');
    last().ends();
    clock.tick(HOUR);
    assert.equal(clock.size, 0, `after close() in ${type}`);
    assert.equal(sockets.length, before, `after close() in ${type}`);
    assert.deepEqual(seen.at(-1), ['close', 1000, 'final'], `after close() in ${type}`);
    assert.equal(seen.filter((event) => event === 'closed').length, 1);
  }
});

test('close() works in every state, and no event follows it', () => {
  for (const state of ['connecting', 'open', 'waiting', 'session-ended']) {
    const socket = opened();
    const seen = watch(socket);
    socket.addEventListener('state', (event) => event.state === state && socket.close());
    last().ends(state === 'session-ended' ? 4401 : 1006);
    clock.tick(1000);
    last().opens?.();
    clock.tick(HOUR);
    assert.deepEqual(seen.slice(-2), ['closed', ['close', 1000, 'final']], state);
    assert.equal(clock.size, 0);
  }
});

test('a message has its data, and json()', () => {
  const socket = opened();
  const received = [];
  socket.addEventListener('message', (event) => received.push(event));
  last().delivers('{"unread": 3}');
  last().delivers('no json');
  const bytes = new Uint8Array([0, 255]).buffer;
  last().delivers(bytes);
  assert.ok(received[0] instanceof MessageEvent);
  assert.deepEqual(received[0].json(), { unread: 3 });
  assert.throws(() => received[1].json(), SyntaxError);
  assert.equal(received[2].data, bytes);
  assert.equal(last().binaryType, 'arraybuffer');
});

test('an error in a listener, now or later, affects neither other listeners nor the connection', async () => {
  const types = ['state', 'open', 'gap', 'message', 'close'];
  const bug = () => new Error('the page has a bug');
  const ways = {
    throws() {
      throw bug();
    },
    rejects: async () => {
      throw bug();
    },
    handler: {
      handleEvent() {
        throw bug();
      },
    },
  };
  for (const [how, listener] of Object.entries(ways)) {
    const socket = connect({ queue: 1 });
    const kept = socket.send('kept');
    for (const type of types) socket.addEventListener(type, listener);
    const seen = watch(socket);
    const uncaught = await uncaughtIn(async () => {
      last().opens();
      await kept;
      last().delivers('Hello');
      last().ends();
      clock.tick(1000);
      last().opens();
      last().delivers('again');
      await settle();
    });
    assert.deepEqual(
      seen,
      ['open', '+open', ['message', 'Hello'], 'waiting', ['close', 1006], 'connecting', 'open', '+open', '+gap', ['message', 'again']],
      how,
    );
    assert.equal(uncaught.length, seen.length, how);
    const ending = await uncaughtIn(() => socket.close());
    assert.deepEqual([ending.length, clock.size], [2, 0], how);
  }
});

test('a forbidden WebSocket gives a final close event', async () => {
  constructorThrows(securityError);
  for (const options of [{}, { fallback: true }, { token: () => 'x' }]) {
    const socket = connect(options);
    const seen = watch(socket);
    let why;
    socket.addEventListener('close', ({ reason }) => (why = reason));
    await settle();
    assert.deepEqual(seen, ['closed', ['close', 1006, 'final']]);
    assert.match(why, /^SecurityError: An insecure/);
    assert.deepEqual([socket.state, clock.size, sockets.length], ['closed', 0, 0]);
  }
});

test('any other constructor error is a failed attempt, at first and on a reconnect', async () => {
  let failures = 1;
  constructorThrows(() => (failures > 0 ? new TypeError(`not now: ${(failures -= 1)}`) : null));
  const socket = connect();
  const seen = watch(socket);
  await settle();
  assert.deepEqual(seen, ['waiting', ['close', 1006]]);
  clock.tick(1000);
  last().opens();
  failures = 1;
  last().ends();
  clock.tick(3000);
  await settle();
  clock.tick(7000);
  last().opens();
  assert.deepEqual([socket.state, sockets.length], ['open', 2]);
});

test('a token that is invalid in a header is a failed attempt, and the next one is tried', async () => {
  let serial = 0;
  constructorThrows(() => (serial === 1 ? new DOMException('invalid subprotocol', 'SyntaxError') : null));
  const socket = connect({ token: () => ['', 'a b', 'ab'][(serial += 1)] });
  let why;
  socket.addEventListener('close', ({ reason }) => (why = reason));
  await settle();
  assert.deepEqual([socket.state, why], ['waiting', 'SyntaxError: invalid subprotocol']);
  clock.tick(1000);
  await settle();
  assert.deepEqual(last().protocols, ['ws4redis', 'bearer.ab']);
});

// ---- Sending

test('send and sendJSON pass their message to the socket', async () => {
  const { send, sendJSON } = opened();
  await send('Hello');
  await sendJSON({ a: [1, null] });
  assert.deepEqual(last().sent, ['Hello', '{"a":[1,null]}']);
});

test('without a connection send rejects', async () => {
  const socket = connect();
  await assert.rejects(socket.send('connecting'), NOT_CONNECTED);
  last().opens();
  last().ends();
  await assert.rejects(socket.send('waiting'), NOT_CONNECTED);
  clock.tick(1000);
  last().opens();
  last().readyState = 2;
  await assert.rejects(socket.send('the peer has closed'), NOT_CONNECTED);
  socket.close();
  await assert.rejects(socket.send('closed'), NOT_CONNECTED);
  assert.deepEqual(sockets.map(({ sent }) => sent).flat(), []);
});

test('a queue holds a bounded number of messages, and sends them first', async () => {
  const socket = connect({ queue: 2 });
  const done = [];
  const kept = ['one', 'two'].map((text) => socket.send(text).then(() => done.push(text)));
  await assert.rejects(socket.send('three'), NOT_CONNECTED);
  await settle();
  assert.deepEqual(done, []);
  socket.addEventListener('state', ({ state }) => state === 'open' && socket.send('from state'));
  socket.addEventListener('open', () => socket.send('from open'));
  last().opens();
  await Promise.all(kept);
  assert.deepEqual(last().sent, ['one', 'two', 'from state', 'from open']);
  last().ends();
  const again = socket.send('four');
  clock.tick(1000);
  last().opens();
  await again;
  assert.deepEqual(last().sent, ['four', 'from state', 'from open']);
});

test('a queue holds a copy of each message', async () => {
  const bytes = () => Uint8Array.from([1, 2, 3, 4]);
  const blob = new Blob(['blob']);
  const whole = bytes().buffer;
  const part = new Uint8Array(bytes().buffer, 1, 2);
  const view = new DataView(bytes().buffer, 2);
  const wide = new Uint16Array(bytes().buffer, 2, 1);
  const moved = bytes().buffer;
  const object = { text: 'then', toString: () => object.text };
  const socket = connect({ queue: 7 });
  const messages = [whole, part, view, wide, moved, blob, object];
  const sent = messages.map((message) => socket.send(message));
  await assert.rejects(socket.send(bytes()), NOT_CONNECTED, 'copies count for the bound');
  new Uint8Array(whole).fill(9);
  for (const array of [part, new Uint8Array(view.buffer), wide]) array.fill(9);
  structuredClone(moved, { transfer: [moved] });
  object.text = 'now';
  last().opens();
  await Promise.all(sent);
  const received = last().sent.map((message) => (message instanceof ArrayBuffer ? [...new Uint8Array(message)] : message));
  assert.deepEqual(received, [[1, 2, 3, 4], [2, 3], [3, 4], [3, 4], [1, 2, 3, 4], blob, 'then']);
});

test('queued messages are rejected when the connection ends', async () => {
  const closed = connect({ queue: 1 });
  const kept = closed.send('Hello');
  closed.close();
  await assert.rejects(kept, NOT_CONNECTED);
  await assert.rejects(closed.send('later'), NOT_CONNECTED);
  const stopped = opened({ queue: 1 });
  last().readyState = 2;
  const lost = stopped.send('Hello');
  last().ends(1008);
  await assert.rejects(lost, NOT_CONNECTED);
});

// ---- Iteration

test('for await yields each message, and ends with the connection', async () => {
  const socket = opened();
  const received = [];
  const loop = (async () => {
    for await (const message of socket) {
      received.push(message);
      await settle();
    }
  })();
  last().delivers('one');
  last().delivers('two');
  await settle();
  last().ends();
  clock.tick(1000);
  last().opens();
  last().delivers('three');
  socket.close();
  await loop;
  assert.deepEqual(received, ['one', 'two', 'three']);
});

test('json() yields the parsed messages', async () => {
  const socket = opened();
  const messages = socket.json();
  const first = messages.next();
  last().delivers('{"n": 1}');
  assert.deepEqual(await first, { value: { n: 1 }, done: false });
  last().delivers('no json');
  await assert.rejects(messages.next(), SyntaxError);
  assert.equal((await messages.next()).done, true);
});

test('each of two loops gets every message, and a break removes the listeners', async () => {
  const socket = opened();
  const received = [[], []];
  const loops = received.map(async (into) => {
    for await (const message of socket) {
      into.push(message);
      if (message === 'two') break;
    }
  });
  last().delivers('one');
  last().delivers('two');
  last().delivers('three');
  await Promise.all(loops);
  assert.deepEqual(received, [['one', 'two'], ['one', 'two']]);
  for (const type of ['message', 'close']) assert.deepEqual(getEventListeners(socket, type), []);
});

test('a loop on a closed socket ends at once', async () => {
  const socket = connect();
  socket.close();
  for await (const message of socket) assert.fail(message);
});

test('a loop that is far too slow rejects', async () => {
  const socket = opened();
  const loop = (async () => {
    for await (const message of socket) if (message === 0) await settle();
  })();
  for (let i = 0; i < 20_000; i += 1) last().delivers(i);
  await assert.rejects(loop, RangeError);
  assert.deepEqual(getEventListeners(socket, 'message'), []);
});

// ---- Close

test('an AbortSignal closes the connection; an aborted one prevents it', () => {
  const controller = new AbortController();
  const socket = opened({ signal: controller.signal });
  const seen = watch(socket);
  controller.abort();
  assert.deepEqual(seen, ['closed', ['close', 1000, 'final']]);
  assert.deepEqual([last().closeCalls, clock.size], [1, 0]);
  const before = sockets.length;
  assert.equal(connect({ signal: controller.signal }).state, 'closed');
  assert.equal(sockets.length, before);
});

test('close() leaves no timer and no listener, in every state', () => {
  const states = {
    connecting: () => {},
    open: () => last().opens(),
    waiting: () => last().ends(),
    'session-ended': () => {
      last().opens();
      last().ends(4401);
    },
  };
  for (const [state, reach] of Object.entries(states)) {
    const { signal } = new AbortController();
    const socket = connect({ signal, heartbeat: 'beat' });
    reach();
    assert.equal(socket.state, state);
    assert.ok(clock.size > 0);
    socket.close();
    assert.equal(clock.size, 0, `after ${state}`);
    const listened = [
      [page, 'online'],
      [document, 'visibilitychange'],
      [document, 'resume'],
      [signal, 'abort'],
    ];
    for (const [target, type] of listened) assert.deepEqual(getEventListeners(target, type), [], type);
  }
});

test('a final close code leaves no timer and no listener', () => {
  opened();
  last().ends(1008);
  assert.equal(clock.size, 0);
  assert.deepEqual(getEventListeners(page, 'online'), []);
});
