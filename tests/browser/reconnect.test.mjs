// When the modern API of static/ws4redis.js reconnects, when it waits, and when it stops.
import assert from 'node:assert/strict';
import { mock, test } from 'node:test';
import { BEAT, browser, clock, HOUR, last, network, random, settle, sockets, tab, watch } from './fakes.mjs';

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

test('only a stable minute resets the delay', () => {
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

test('who is sent away comes back spread, over at least 10 s and not before one', () => {
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

test('an attempt that nobody answers is given up after 20 s', () => {
  const socket = connect();
  const seen = watch(socket);
  const [first] = sockets;
  clock.tick(19_999);
  assert.deepEqual(seen, []);
  clock.tick(1);
  assert.deepEqual([seen, first.closeCalls], [['waiting', ['close', 1006]], 1]);
  first.ends(1006);
  assert.equal(seen.length, 2, 'its own end says nothing new');
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

test('4401 tells of the ended session and reconnects once', () => {
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

test('4401 and then a refused handshake stops', () => {
  const socket = opened();
  last().ends(4401);
  clock.tick(1000);
  last().ends(1006);
  assert.deepEqual([socket.state, clock.size], ['closed', 0]);
});

test('4401 and then nobody who answers: that was not the one attempt', () => {
  const socket = opened();
  last().ends(4401);
  clock.tick(1000);
  clock.tick(20_000);
  assert.equal(socket.state, 'waiting');
  clock.tick(30_000);
  last().ends(1006);
  assert.equal(socket.state, 'closed');
});

test('4401 after a stable minute is one of its own', () => {
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

test('while the browser says that there is no network, attempts are far apart, and online connects at once', () => {
  const socket = opened();
  const seen = watch(socket);
  network(false);
  last().ends();
  for (let i = 0; i < 5; i += 1) {
    assert.equal(clock.delay, 22_500, 'neither shorter nor growing');
    clock.tick(22_500);
    assert.equal(sockets.length, i + 2);
    last().ends();
  }
  random.mock.mockImplementation(() => 0.999999);
  clock.tick(22_500);
  last().ends();
  assert.ok(clock.delay < 30_000);
  network(true);
  assert.deepEqual([sockets.length, socket.state], [8, 'connecting']);
  random.mock.mockImplementation(() => 0.5);
  last().ends();
  assert.equal(clock.delay, 500, 'attempts without a network were none');
  network(true);
  assert.equal(sockets.length, 9);
  last().opens();
  assert.equal(seen.at(-1), '+gap');
});

test('a page that is opened while the browser says that there is no network tries all the same', () => {
  navigator.onLine = false;
  const socket = connect();
  assert.deepEqual([socket.state, sockets.length], ['connecting', 1]);
  last().ends();
  assert.equal(clock.delay, 22_500);
  network(true);
  assert.deepEqual([socket.state, sockets.length], ['connecting', 2]);
});

test('a browser that was wrong about the network is not believed again', () => {
  navigator.onLine = false;
  const socket = connect();
  last().opens();
  last().ends();
  assert.equal(clock.delay, 500);
  clock.tick(500);
  last().opens();
  network(true);
  assert.deepEqual([sockets.length, socket.state], [2, 'open'], 'and its events replace no connection that is open');
  last().ends();
  network(true);
  assert.equal(sockets.length, 3);
});

test('for hosts of the same machine no network is needed', () => {
  navigator.onLine = false;
  const hosts = ['localhost:8000', 'LOCALHOST', 'site.localhost', '127.0.0.1:8000', '127.1', '127.8.9.10', '[::1]:80'];
  for (const host of hosts) {
    const socket = WS4Redis.connect(`ws://${host}/ws/x`, { fallback: false });
    last().ends();
    assert.equal(clock.delay, 500, host);
    clock.tick(500);
    last().opens();
    const before = sockets.length;
    network(true);
    assert.equal(sockets.length, before, `${host}: the network has nothing to do with it`);
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

test('without a navigator there is a network', () => {
  for (const value of [undefined, {}, { onLine: undefined }]) {
    globalThis.navigator = value;
    const socket = connect();
    last().ends();
    assert.equal(clock.delay, 500);
    socket.close();
  }
});

test('a hidden tab that comes back after its socket died reconnects at once', () => {
  opened();
  tab(false);
  last().ends();
  assert.equal(sockets.length, 1);
  tab(true);
  assert.equal(sockets.length, 2);
  clock.tick(HOUR / 1000);
  assert.equal(sockets.length, 2, 'the delay is off');
});

test('online and a tab that is shown do not disturb an attempt, or anything after close()', () => {
  const socket = connect();
  network(true);
  tab(true);
  assert.equal(sockets.length, 1);
  socket.close();
  network(true);
  tab(true);
  assert.deepEqual([sockets.length, clock.size], [1, 0]);
});

// ---- Dead connections

test('with a heartbeat a dead connection is replaced within 20 s, without waiting for its close', () => {
  const socket = opened({ heartbeat: BEAT });
  const seen = watch(socket);
  clock.tick(5000);
  assert.deepEqual(last().sent, [BEAT]);
  clock.tick(14_999);
  assert.deepEqual(seen, []);
  clock.tick(1);
  assert.deepEqual(seen, ['waiting', ['close', 1006]]);
  assert.equal(last().closeCalls, 1);
  clock.tick(500);
  assert.equal(sockets.length, 2);
  sockets[0].ends(1006);
  sockets[0].brings('late');
  assert.deepEqual(seen, ['waiting', ['close', 1006], 'connecting']);
});

test('heartbeats and messages keep it, and only messages are passed on', () => {
  const seen = watch(opened({ heartbeat: BEAT }));
  for (let i = 0; i < 20; i += 1) {
    clock.tick(15_000);
    last().brings(i % 2 ? BEAT : 'Hello');
  }
  assert.equal(last().closeCalls, 0);
  assert.equal(seen.length, 10);
});

test('after a sleep with a heartbeat a dead connection is noticed within 5 s, and a live one stays', () => {
  opened({ heartbeat: BEAT });
  clock.tick(12_000);
  last().brings(BEAT);
  clock.sleep(HOUR);
  assert.equal(last().sent.length, 3, 'asked at once');
  last().brings(BEAT);
  clock.tick(14_000);
  assert.equal(last().closeCalls, 0);
  last().brings(BEAT);
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

test('online asks for a heartbeat at once; without one the connection is replaced', () => {
  opened({ heartbeat: BEAT });
  clock.tick(4000);
  network(false);
  network(true);
  assert.deepEqual(last().sent, [BEAT]);
  clock.tick(4999);
  assert.equal(last().closeCalls, 0);
  clock.tick(1);
  assert.equal(last().closeCalls, 1);
  const seen = watch(opened());
  network(true);
  assert.deepEqual(seen, ['waiting', ['close', 1006], 'connecting']);
});

test('a tab that is shown asks for a heartbeat; without one it leaves an open connection alone', () => {
  const asking = opened({ heartbeat: BEAT });
  tab(false);
  assert.deepEqual(last().sent, []);
  tab(true);
  assert.deepEqual(last().sent, [BEAT]);
  clock.tick(5000);
  assert.equal(last().closeCalls, 1);
  asking.close();
  opened();
  const before = sockets.length;
  tab(true);
  assert.deepEqual([last().closeCalls, sockets.length], [0, before]);
});

test('a page that was frozen looks after its connection', () => {
  opened();
  document.dispatchEvent(new Event('resume'));
  assert.equal(sockets.length, 2);
});

test('close() in the close that a dead connection causes is obeyed', () => {
  const socket = opened();
  socket.addEventListener('close', () => socket.close());
  network(true);
  assert.deepEqual([sockets.length, clock.size, socket.state], [1, 0, 'closed']);
});

// ---- Tokens

test('a token is asked for before each attempt and offered beside a real subprotocol', async () => {
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

test('a token may be there at once, or not at all', async () => {
  connect({ token: () => 'x' });
  await settle();
  assert.deepEqual(last().protocols, ['ws4redis', 'bearer.x']);
  for (const nothing of [null, undefined, '']) {
    connect({ token: async () => nothing });
    await settle();
    assert.deepEqual(last().protocols, []);
  }
});

test('without a token the attempt has failed, and the close says why', async () => {
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

test('a token that comes too late is not used', async () => {
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

test('4401 with tokens: each end of one means the next', async () => {
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
  assert.equal(socket.state, 'closed', 'but one that is refused stops');
});
