// The modern API of static/ws4redis.js: when it reconnects, waits and stops.
import assert from 'node:assert/strict';
import { mock, test } from 'node:test';
import { HEARTBEAT, browser, clock, HOUR, last, setOnline, random, setVisible, settle, sockets, watch } from './fakes.mjs';

browser();

const connect = (options) => WS4Redis.connect('/ws/foobar', { fallback: false, ...options });
const opened = (options) => {
  const socket = connect(options);
  last().opens();
  return socket;
};

// ---- Delays

test('delays are fully random and grow to 30 s', () => {
  for (const roll of [0, 0.5, 0.999999]) {
    random.mock.mockImplementation(() => roll);
    const socket = connect();
    for (const limit of [1, 3, 7, 15, 30, 30, 30]) {
      last().ends();
      assert.ok(Math.abs(clock.delay - roll * limit * 1000) < 1e-6, `${clock.delay} ms of ${limit} s`);
      const before = sockets.length;
      clock.tick(clock.delay + 1);
      assert.equal(sockets.length, before + 1);
    }
    socket.close();
  }
});

test('after very many attempts the delay is still below 30 s', () => {
  connect();
  for (let i = 0; i < 1100; i += 1) {
    last().ends();
    assert.ok(clock.delay <= 30_000);
    clock.tick(clock.delay);
  }
  assert.equal(sockets.length, 1101);
});

test('the delay resets only after a minute without a loss', () => {
  connect();
  for (let i = 0; i < 4; i += 1) {
    last().opens();
    clock.tick(59_000);
    last().ends();
    clock.tick(30_000);
  }
  last().opens();
  clock.tick(59_999);
  last().ends();
  assert.equal(clock.delay, 15_000);
  clock.tick(15_000);
  last().opens();
  clock.tick(60_000);
  last().ends();
  assert.equal(clock.delay, 500);
});

test('after 1001, 1012 and 1013 clients reconnect after 1 s to at least 10 s', () => {
  for (const code of [1001, 1012, 1013]) {
    for (const [roll, wanted] of [
      [0, 1000],
      [0.5, 5500],
      [1, 10_000],
    ]) {
      random.mock.mockImplementation(() => roll);
      const socket = opened();
      last().ends(code);
      assert.equal(clock.delay, wanted, `${code} at ${roll}`);
      socket.close();
    }
  }
  random.mock.mockImplementation(() => 1);
  const socket = connect();
  for (let i = 0; i < 6; i += 1) {
    last().ends(1006);
    clock.tick(30_000);
  }
  last().ends(1013);
  assert.equal(clock.delay, 30_000);
  socket.close();
});

test('an attempt without an answer fails after 20 s', () => {
  const socket = connect();
  const seen = watch(socket);
  const [first] = sockets;
  clock.tick(19_999);
  assert.deepEqual(seen, []);
  clock.tick(1);
  assert.deepEqual([seen, first.closeCalls], [['waiting', ['close', 1006]], 1]);
  first.ends(1006);
  assert.equal(seen.length, 2, 'the later close of the socket fires no event');
  clock.tick(500);
  assert.equal(sockets.length, 2);
});

// ---- Codes

test('1008 and 4400–4499 other than 4401 stop', () => {
  for (const code of [1008, 4400, 4402, 4403, 4499]) {
    const before = sockets.length;
    const seen = watch(opened());
    last().ends(code);
    clock.tick(HOUR);
    assert.deepEqual(seen, ['closed', ['close', code, 'final']]);
    assert.deepEqual([clock.size, sockets.length], [0, before + 1]);
  }
});

test('all other codes reconnect', () => {
  for (const code of [1000, 1001, 1005, 1006, 1009, 1011, 1012, 1013, 3000, 4399, 4500]) {
    const socket = opened();
    last().ends(code);
    assert.equal(clock.size, 1, `after ${code}`);
    socket.close();
  }
});

test('4401 reports the ended session and reconnects once', () => {
  const seen = watch(opened());
  last().ends(4401, 'session ended');
  clock.tick(1000);
  last().opens();
  last().ends(4401, 'session ended');
  clock.tick(HOUR);
  assert.deepEqual(seen, [
    'session-ended',
    ['close', 4401],
    ...['connecting', 'open', '+open', '+gap'],
    ...['session-ended', 'closed'],
    ['close', 4401, 'final'],
  ]);
  assert.deepEqual([sockets.length, clock.size], [2, 0]);
});

test('4401 and then a refused handshake stop', () => {
  const socket = opened();
  last().ends(4401);
  clock.tick(1000);
  last().ends(1006);
  assert.deepEqual([socket.state, clock.size], ['closed', 0]);
});

test('4401 and then an attempt without an answer: the one attempt remains', () => {
  const socket = opened();
  last().ends(4401);
  clock.tick(1000);
  clock.tick(20_000);
  assert.equal(socket.state, 'waiting');
  clock.tick(30_000);
  last().ends(1006);
  assert.equal(socket.state, 'closed');
});

test('4401 after a minute without a loss reconnects once again', () => {
  const socket = connect();
  for (let i = 0; i < 3; i += 1) {
    last().opens();
    clock.tick(60_000);
    last().ends(4401);
    assert.equal(socket.state, 'session-ended');
    clock.tick(1000);
  }
  last().opens();
  clock.tick(59_999);
  last().ends(4401);
  assert.equal(socket.state, 'closed');
});

// ---- Network and tab

test('while the browser reports no network, attempts are rare, and the online event connects at once', () => {
  const socket = opened();
  const seen = watch(socket);
  setOnline(false);
  last().ends();
  for (let i = 0; i < 5; i += 1) {
    assert.equal(clock.delay, 22_500, 'a constant delay');
    clock.tick(22_500);
    assert.equal(sockets.length, i + 2);
    last().ends();
  }
  random.mock.mockImplementation(() => 0.999999);
  clock.tick(22_500);
  last().ends();
  assert.ok(clock.delay < 30_000);
  setOnline(true);
  assert.deepEqual([sockets.length, socket.state], [8, 'connecting']);
  random.mock.mockImplementation(() => 0.5);
  last().ends();
  assert.equal(clock.delay, 500, 'attempts without a network do not count');
  setOnline(true);
  assert.equal(sockets.length, 9);
  last().opens();
  assert.equal(seen.at(-1), '+gap');
});

test('a page that loads while the browser reports no network connects nevertheless', () => {
  navigator.onLine = false;
  const socket = connect();
  assert.deepEqual([socket.state, sockets.length], ['connecting', 1]);
  last().ends();
  assert.equal(clock.delay, 22_500);
  setOnline(true);
  assert.deepEqual([socket.state, sockets.length], ['connecting', 2]);
});

test('after a wrong report of the browser its network state is ignored', () => {
  navigator.onLine = false;
  const socket = connect();
  last().opens();
  last().ends();
  assert.equal(clock.delay, 500);
  clock.tick(500);
  last().opens();
  setOnline(true);
  assert.deepEqual([sockets.length, socket.state], [2, 'open'], 'its events replace no open connection');
  last().ends();
  setOnline(true);
  assert.equal(sockets.length, 3);
});

test('for local hosts the network state is ignored', () => {
  navigator.onLine = false;
  const hosts = ['localhost:8000', 'LOCALHOST', 'site.localhost', '127.0.0.1:8000', '127.1', '127.8.9.10', '[::1]:80'];
  for (const host of hosts) {
    const socket = WS4Redis.connect(`ws://${host}/ws/x`, { fallback: false });
    last().ends();
    assert.equal(clock.delay, 500, host);
    clock.tick(500);
    last().opens();
    const before = sockets.length;
    setOnline(true);
    assert.equal(sockets.length, before, `${host}: the event has no effect`);
    socket.close();
    navigator.onLine = false;
  }
  for (const host of ['localhost.example.test', 'notlocalhost', '127.example.test', '10.0.0.1', '[::2]']) {
    const socket = WS4Redis.connect(`ws://${host}/ws/x`, { fallback: false });
    last().ends();
    assert.equal(clock.delay, 22_500, host);
    socket.close();
  }
});

test('without a navigator the network counts as present', () => {
  for (const value of [undefined, {}, { onLine: undefined }]) {
    globalThis.navigator = value;
    const socket = connect();
    last().ends();
    assert.equal(clock.delay, 500);
    socket.close();
  }
});

test('a hidden tab reconnects at once when it becomes visible after a loss', () => {
  opened();
  setVisible(false);
  last().ends();
  assert.equal(sockets.length, 1);
  setVisible(true);
  assert.equal(sockets.length, 2);
  clock.tick(HOUR / 1000);
  assert.equal(sockets.length, 2, 'the timer of the delay was cleared');
});

test('the online event and a visible tab have no effect on an attempt, or after close()', () => {
  const socket = connect();
  setOnline(true);
  setVisible(true);
  assert.equal(sockets.length, 1);
  socket.close();
  setOnline(true);
  setVisible(true);
  assert.deepEqual([sockets.length, clock.size], [1, 0]);
});

// ---- Dead connections

test('with a heartbeat a dead connection is replaced within 20 s, before its close event', () => {
  const socket = opened({ heartbeat: HEARTBEAT });
  const seen = watch(socket);
  clock.tick(5000);
  assert.deepEqual(last().sent, [HEARTBEAT]);
  clock.tick(14_999);
  assert.deepEqual(seen, []);
  clock.tick(1);
  assert.deepEqual(seen, ['waiting', ['close', 1006]]);
  assert.equal(last().closeCalls, 1);
  clock.tick(500);
  assert.equal(sockets.length, 2);
  sockets[0].ends(1006);
  sockets[0].delivers('late');
  assert.deepEqual(seen, ['waiting', ['close', 1006], 'connecting']);
});

test('heartbeats and messages keep a connection alive, and only messages are delivered', () => {
  const seen = watch(opened({ heartbeat: HEARTBEAT }));
  for (let i = 0; i < 20; i += 1) {
    clock.tick(15_000);
    last().delivers(i % 2 ? HEARTBEAT : 'Hello');
  }
  assert.equal(last().closeCalls, 0);
  assert.equal(seen.length, 10);
});

test('after a sleep a heartbeat detects a dead connection within 5 s, and a live one stays', () => {
  opened({ heartbeat: HEARTBEAT });
  clock.tick(12_000);
  last().delivers(HEARTBEAT);
  clock.sleep(HOUR);
  assert.equal(last().sent.length, 3, 'a heartbeat at once');
  last().delivers(HEARTBEAT);
  clock.tick(14_000);
  assert.equal(last().closeCalls, 0);
  last().delivers(HEARTBEAT);
  clock.sleep(HOUR);
  clock.tick(4999);
  assert.equal(last().closeCalls, 0);
  clock.tick(1);
  assert.equal(last().closeCalls, 1);
});

test('after a sleep without a heartbeat the connection is replaced', () => {
  const seen = watch(opened());
  clock.sleep(60_000);
  assert.deepEqual(seen, [], 'timers of hidden tabs may be a minute late');
  clock.sleep(100_000);
  assert.deepEqual(seen, ['waiting', ['close', 1006], 'connecting']);
  last().opens();
  assert.equal(seen.at(-1), '+gap');
  clock.tick(HOUR);
  assert.equal(sockets.length, 2);
});

test('the online event sends a heartbeat at once; without the option it replaces the connection', () => {
  opened({ heartbeat: HEARTBEAT });
  clock.tick(4000);
  setOnline(false);
  setOnline(true);
  assert.deepEqual(last().sent, [HEARTBEAT]);
  clock.tick(4999);
  assert.equal(last().closeCalls, 0);
  clock.tick(1);
  assert.equal(last().closeCalls, 1);
  const seen = watch(opened());
  setOnline(true);
  assert.deepEqual(seen, ['waiting', ['close', 1006], 'connecting']);
});

test('a visible tab sends a heartbeat; without the option an open connection stays', () => {
  const asking = opened({ heartbeat: HEARTBEAT });
  setVisible(false);
  assert.deepEqual(last().sent, []);
  setVisible(true);
  assert.deepEqual(last().sent, [HEARTBEAT]);
  clock.tick(5000);
  assert.equal(last().closeCalls, 1);
  asking.close();
  opened();
  const before = sockets.length;
  setVisible(true);
  assert.deepEqual([last().closeCalls, sockets.length], [0, before]);
});

test('a page that resumes from a freeze replaces its connection', () => {
  opened();
  document.dispatchEvent(new Event('resume'));
  assert.equal(sockets.length, 2);
});

test('close() in the close listener of a dead connection prevents the reconnect', () => {
  const socket = opened();
  socket.addEventListener('close', () => socket.close());
  setOnline(true);
  assert.deepEqual([sockets.length, clock.size, socket.state], [1, 0, 'closed']);
});

// ---- Tokens

test('each attempt requests a token and offers it together with a real subprotocol', async () => {
  let serial = 0;
  const socket = connect({ token: async () => `a.b.c${(serial += 1)}` });
  assert.deepEqual([sockets.length, socket.state], [0, 'connecting']);
  await settle();
  assert.deepEqual(last().protocols, ['ws4redis', 'bearer.a.b.c1']);
  last().opens();
  last().ends();
  clock.tick(1000);
  await settle();
  assert.deepEqual(last().protocols, ['ws4redis', 'bearer.a.b.c2']);
});

test('a token may be returned synchronously, or be absent', async () => {
  connect({ token: () => 'x' });
  await settle();
  assert.deepEqual(last().protocols, ['ws4redis', 'bearer.x']);
  for (const nothing of [null, undefined, '']) {
    connect({ token: async () => nothing });
    await settle();
    assert.deepEqual(last().protocols, []);
  }
});

test('a failing token function is a failed attempt, and the close event has the reason', async () => {
  for (const token of [
    () => Promise.reject(new Error('the site is down')),
    () => {
      throw new Error('the site is down');
    },
  ]) {
    const socket = connect({ token });
    let why;
    socket.addEventListener('close', ({ reason }) => (why = reason));
    await settle();
    assert.deepEqual([why, socket.state, sockets.length], ['token: the site is down', 'waiting', 0]);
    assert.equal(clock.delay, 500);
    socket.close();
  }
});

test('a late token is not used', async () => {
  let give;
  const socket = connect({ token: () => new Promise((resolve) => (give = resolve)) });
  await settle();
  clock.tick(20_000);
  assert.equal(socket.state, 'waiting');
  give('late');
  await settle();
  assert.equal(sockets.length, 0);
  const closed = connect({ token: () => new Promise((resolve) => (give = resolve)) });
  await settle();
  closed.close();
  give('late');
  await settle();
  assert.equal(sockets.length, 0);
  socket.close();
  assert.equal(clock.size, 0);
});

test('4401 with tokens: each expired token is replaced by the next', async () => {
  const token = mock.fn(async () => 'x');
  const socket = connect({ token });
  for (let i = 1; i <= 5; i += 1) {
    await settle();
    assert.equal(token.mock.callCount(), i);
    last().opens();
    last().ends(4401, 'token ended');
    assert.equal(socket.state, 'session-ended');
    clock.tick(clock.delay);
  }
  await settle();
  last().ends(1006);
  assert.equal(socket.state, 'closed', 'a refused token is final');
});
