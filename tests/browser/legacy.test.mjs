// The legacy API of static/ws4redis.js: upstream's interface and delays, with the stop rules of this client.
import assert from 'node:assert/strict';
import { getEventListeners } from 'node:events';
import { mock, test } from 'node:test';
import vm from 'node:vm';
import {
  HEARTBEAT,
  browser,
  clock,
  constructorThrows,
  HOUR,
  last,
  setOnline,
  page,
  random,
  securityError,
  settle,
  sockets,
  source,
  setVisible,
  uncaughtIn,
} from './fakes.mjs';

const URI = 'ws://example.test/ws/foobar?subscribe-broadcast&echo';

browser();

const client = (options = {}) => new WS4Redis({ uri: URI, ...options });

test('the file sets one global, as upstream does, and no other', () => {
  const sandbox = vm.createContext({});
  vm.runInContext(source, sandbox);
  assert.deepEqual(Object.keys(sandbox), ['WS4Redis']);
});

test('a page may use the name ws4redis as with upstream, whichever script comes first', () => {
  const pages = {
    'a namespace': 'var ws4redis = ws4redis || { made: true };',
    'a namespace of the window': 'window.ws4redis = window.ws4redis || { made: true };',
    'a test of a variable': 'var ws4redis; if (!ws4redis) { ws4redis = { made: true }; }',
    'a test of the window': 'if (!window.ws4redis) { window.ws4redis = { made: true }; }',
    'a test of the type': "(function () { if (typeof ws4redis === 'undefined') { window.ws4redis = { made: true }; } })();",
    'a test of the name': "if (!('ws4redis' in window)) { window.ws4redis = { made: true }; }",
    'a constant': 'const ws4redis = { made: true };',
    'a function': 'function ws4redis() {} ws4redis.made = true;',
  };
  for (const [name, page] of Object.entries(pages)) {
    for (const scripts of [[source, page], [page, source], [source, page, source]]) {
      const sandbox = vm.createContext({});
      vm.runInContext('var window = globalThis;', sandbox);
      for (const script of scripts) vm.runInContext(script, sandbox);
      assert.equal(vm.runInContext('ws4redis.made', sandbox), true, name);
      assert.equal(vm.runInContext('typeof WS4Redis + typeof WS4Redis.connect', sandbox), 'functionfunction', name);
    }
  }
});

test('it connects at once to the unchanged uri', () => {
  const seen = [];
  client({ connecting: () => seen.push('connecting'), connected: () => seen.push('connected') });
  assert.equal(last().uri, URI);
  assert.deepEqual(seen, ['connecting']);
  last().opens();
  assert.deepEqual(seen, ['connecting', 'connected']);
});

test('the constructor works without new, and as a method', () => {
  const made = WS4Redis({ uri: URI });
  assert.ok(made instanceof WS4Redis);
  const namespace = { WS4Redis };
  assert.ok(namespace.WS4Redis({ uri: URI }, {}) instanceof WS4Redis);
  assert.equal(sockets.length, 2);
});

test('a missing uri throws', () => {
  assert.throws(() => new WS4Redis({}), /uri/);
  assert.throws(() => new WS4Redis(), /uri/);
  assert.equal(clock.size, 0);
});

test('a permanent constructor error does not end the script, and disconnected gets the reason', async () => {
  for (const [uri, error, wanted] of [
    ['nonsense', () => null, /^SyntaxError: bad URL nonsense/],
    [URI, securityError, /^SecurityError: An insecure/],
  ]) {
    constructorThrows(error);
    const closes = [];
    const seen = [];
    const uncaught = await uncaughtIn(async () => {
      const ws = client({
        uri,
        disconnected: (event) => closes.push(event),
        reconnecting: () => seen.push('reconnecting'),
      });
      assert.deepEqual([ws.get_state(), ws.is_closed()], [3, true]);
      assert.deepEqual(closes, [], 'no callback before the calling script has ended');
      ws.send_message('dropped');
      await settle();
      clock.tick(HOUR);
      ws.close();
    });
    assert.equal(closes.length, 1);
    assert.equal(closes[0].code, 1006);
    assert.match(closes[0].reason, wanted);
    assert.equal(uncaught.length, 1, 'the error is reported');
    assert.deepEqual([seen, sockets.length, clock.size], [[], 0, 0], 'the next attempt would throw as well');
  }
});

test('other constructor errors are retried, also on a reconnect', async () => {
  let failures = 0;
  constructorThrows(() => (failures > 0 ? new TypeError(`too many: ${(failures -= 1)}`) : null));
  const seen = [];
  const ws = client({ disconnected: ({ reason }) => seen.push(reason), reconnecting: () => seen.push('again') });
  last().opens();
  failures = 2;
  last().ends(1006, 'lost');
  const uncaught = await uncaughtIn(async () => {
    for (const ms of [1000, 3000, 7000]) {
      clock.tick(ms);
      await settle();
    }
  });
  assert.deepEqual(seen, ['lost', 'again', 'TypeError: too many: 1', 'again', 'TypeError: too many: 0', 'again']);
  assert.deepEqual(uncaught, ['too many: 1', 'too many: 0']);
  last().opens();
  assert.ok(ws.is_connected());
});

test('after a constructor error callbacks may close and throw', async () => {
  constructorThrows(() => new TypeError('no'));
  const uncaught = await uncaughtIn(async () => {
    const closing = client({ disconnected: () => closing.close() });
    client({
      disconnected() {
        throw new Error('bug');
      },
    });
    await settle();
    assert.equal(clock.size, 1, 'only the client that was not closed continues');
  });
  assert.deepEqual(uncaught.sort(), ['bug', 'no', 'no']);
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

test('callbacks get the same arguments as upstream', () => {
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
  last().delivers('Hello');
  last().ends(1001, 'bye');
  assert.deepEqual(calls, [
    ['connecting'],
    ['connected'],
    ['receive_message', 'Hello'],
    ['disconnected', { code: 1001, reason: 'bye', wasClean: true }],
  ]);
});

test('binary messages arrive unchanged', () => {
  const received = [];
  client({ receive_message: (data) => received.push(data), heartbeat_msg: HEARTBEAT });
  last().opens();
  assert.equal(last().binaryType, 'arraybuffer');
  const bytes = new Uint8Array([0, 255]).buffer;
  last().delivers(bytes);
  assert.equal(received[0], bytes);
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
      assert.ok(Math.abs(clock.delay - roll * limit * 1000) < 1e-6, `retry ${i + 1} waits ${clock.delay} ms`);
      assert.ok(clock.delay < limit * 1000);
      clock.tick(Math.ceil(clock.delay) + 1);
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
    assert.ok(clock.delay < 30_000);
    clock.tick(30_000);
  }
  assert.equal(sockets.length, 1101);
});

test('no attempt before the delay is over', () => {
  client();
  last().ends();
  clock.tick(499);
  assert.equal(sockets.length, 1);
  clock.tick(1);
  assert.equal(sockets.length, 2);
});

test('an open connection resets the delay', () => {
  client();
  for (let i = 0; i < 4; i += 1) {
    last().ends();
    clock.tick(30_000);
  }
  last().opens();
  last().ends();
  assert.equal(clock.delay, 500);
});

test('reconnecting gets delay and attempt, after disconnected', () => {
  const calls = [];
  client({
    disconnected: () => calls.push('disconnected'),
    reconnecting: (ms, attempt) => calls.push([ms, attempt]),
  });
  last().ends();
  clock.tick(500);
  last().ends();
  assert.deepEqual(calls, ['disconnected', [500, 1], 'disconnected', [1500, 2]]);
});

test('heartbeats are sent every 5 s while open, and only then', () => {
  client({ heartbeat_msg: HEARTBEAT });
  clock.tick(4999);
  assert.equal(clock.size, 0);
  last().opens();
  clock.tick(4999);
  assert.deepEqual(last().sent, []);
  clock.tick(1);
  assert.deepEqual(last().sent, [HEARTBEAT]);
  last().ends();
  const [first] = sockets;
  assert.equal(clock.size, 1, 'only the timer of the retry; the interval has stopped');
  clock.tick(HOUR);
  assert.deepEqual(first.sent, [HEARTBEAT]);
});

test('without heartbeat_msg there is no heartbeat', () => {
  for (const heartbeat_msg of [undefined, null, '']) {
    client({ heartbeat_msg });
    last().opens();
    assert.equal(clock.size, 0);
  }
});

test('the fourth silent tick closes the socket', () => {
  client({ heartbeat_msg: HEARTBEAT });
  last().opens();
  clock.tick(15_000);
  assert.deepEqual([last().sent.length, last().closeCalls], [3, 0]);
  clock.tick(5000);
  assert.deepEqual([last().sent.length, last().closeCalls, clock.size], [3, 1, 0]);
  last().ends();
  clock.tick(1000);
  assert.equal(sockets.length, 2, 'and it reconnects');
});

test('a returned heartbeat resets the counter and is not delivered', () => {
  const received = [];
  client({ heartbeat_msg: HEARTBEAT, receive_message: (data) => received.push(data) });
  last().opens();
  for (let i = 0; i < 20; i += 1) {
    clock.tick(15_000);
    last().delivers(HEARTBEAT);
  }
  last().delivers('Hello');
  assert.equal(last().closeCalls, 0);
  assert.deepEqual(received, ['Hello']);
});

test('other messages do not reset the counter', () => {
  client({ heartbeat_msg: HEARTBEAT });
  last().opens();
  for (let i = 0; i < 4; i += 1) {
    last().delivers('Hello');
    clock.tick(5000);
  }
  assert.equal(last().closeCalls, 1);
});

test('each connection resets the counter', () => {
  client({ heartbeat_msg: HEARTBEAT });
  last().opens();
  clock.tick(15_000);
  last().ends();
  clock.tick(1000);
  last().opens();
  clock.tick(15_000);
  assert.equal(last().closeCalls, 0);
});

test('close() leaves no timers: while open', () => {
  let ended = 0;
  const ws = client({ heartbeat_msg: HEARTBEAT, disconnected: () => (ended += 1) });
  last().opens();
  assert.equal(clock.size, 1);
  ws.close();
  assert.equal(clock.size, 0);
  last().ends(1000);
  assert.deepEqual([clock.size, ended], [0, 1]);
  clock.tick(HOUR);
  assert.equal(sockets.length, 1);
});

test('close() leaves no timers: while waiting, and twice', () => {
  const ws = client();
  last().ends();
  assert.equal(clock.size, 1);
  ws.close();
  ws.close();
  assert.equal(clock.size, 0);
  clock.tick(HOUR);
  assert.equal(sockets.length, 1);
});

test('close() leaves no timers: while connecting', () => {
  const ws = client({ heartbeat_msg: HEARTBEAT });
  ws.close();
  last().ends(1006);
  assert.equal(clock.size, 0);
});

test('close() works inside every callback', () => {
  for (const name of ['connecting', 'connected', 'disconnected', 'reconnecting', 'receive_message']) {
    let ws = null;
    const before = sockets.length;
    const seen = [];
    ws = client({
      heartbeat_msg: HEARTBEAT,
      reconnecting: () => seen.push('reconnecting'),
      [name]: () => ws?.close(),
    });
    last().opens();
    last().delivers('Hello');
    last().ends();
    clock.tick(HOUR);
    assert.equal(clock.size, 0, `after close() in ${name}`);
    assert.equal(sockets.length, before + 1, `after close() in ${name}`);
    if (name === 'disconnected') assert.deepEqual(seen, []);
  }
});

test('an error in any callback, now or later, is reported and does not end the connection', async () => {
  const callbacks = ['connecting', 'connected', 'disconnected', 'reconnecting', 'receive_message'];
  const ways = {
    throws() {
      throw new Error('the page has a bug');
    },
    rejects: async () => {
      throw new Error('the page has a bug');
    },
  };
  for (const [how, way] of Object.entries(ways)) {
    for (const name of [...callbacks, 'all']) {
      const before = sockets.length;
      const calls = [];
      const note = (of) =>
        function (...args) {
          calls.push(of);
          if (name === of || name === 'all') return way(...args);
        };
      let ws;
      const uncaught = await uncaughtIn(async () => {
        ws = client(Object.fromEntries(callbacks.map((of) => [of, note(of)])));
        for (let round = 0; round < 2; round += 1) {
          last().opens();
          last().delivers('Hello');
          last().delivers('Hello');
          last().ends();
          await settle();
          clock.tick(1000);
        }
      });
      const round = ['connecting', 'connected', 'receive_message', 'receive_message', 'disconnected', 'reconnecting'];
      assert.deepEqual(calls, [...round, ...round, 'connecting'], `${name} ${how}`);
      assert.equal(sockets.length, before + 3, `${name} ${how}`);
      assert.equal(ws.get_state(), 0);
      const thrown = calls.filter((call) => name === call || name === 'all').length;
      assert.equal(uncaught.length, thrown, `${name} ${how}`);
      ws.close();
    }
  }
});

test('4401 reconnects once and then stops', () => {
  const events = [];
  client({ reconnecting: () => events.push('again') });
  last().opens();
  last().ends(4401, 'session ended');
  clock.tick(1000);
  assert.equal(sockets.length, 2);
  last().opens();
  last().ends(4401, 'session ended');
  assert.equal(clock.size, 0);
  clock.tick(HOUR);
  assert.equal(sockets.length, 2);
  assert.deepEqual(events, ['again']);
});

test('4401 and then a refused handshake stop', () => {
  client();
  last().opens();
  last().ends(4401);
  clock.tick(1000);
  last().ends(1006);
  assert.equal(clock.size, 0);
});

test('4401, then open again: later losses reconnect as usual', () => {
  client();
  last().opens();
  last().ends(4401);
  clock.tick(1000);
  last().opens();
  last().ends(1006);
  clock.tick(1000);
  last().ends(1006);
  clock.tick(3000);
  assert.equal(sockets.length, 4);
  last().opens();
  last().ends(4401);
  assert.equal(clock.size, 0);
});

test('1008 and the other 4400–4499 stop', () => {
  for (const code of [1008, 4400, 4402, 4403, 4499]) {
    const before = sockets.length;
    const seen = [];
    client({ disconnected: (event) => seen.push(event.code), reconnecting: () => seen.push('again') });
    last().opens();
    last().ends(code);
    clock.tick(HOUR);
    assert.deepEqual([seen, clock.size, sockets.length], [[code], 0, before + 1]);
  }
});

test('all other codes reconnect', () => {
  for (const code of [1000, 1001, 1005, 1006, 1009, 1011, 1012, 1013, 3000, 4399, 4500]) {
    const ws = client();
    last().opens();
    last().ends(code);
    assert.equal(clock.size, 1, `after ${code}`);
    ws.close();
  }
});

test('4401, then open for a minute: the next 4401 reconnects once again', () => {
  client();
  for (let i = 0; i < 3; i += 1) {
    last().opens();
    clock.tick(60_000);
    last().ends(4401);
    clock.tick(1000);
    assert.equal(sockets.length, i + 2);
  }
});

test("network and tab events have no effect: the delays are upstream's", () => {
  client();
  last().ends();
  setOnline(false);
  clock.tick(400);
  setOnline(true);
  setVisible(false);
  setVisible(true);
  assert.equal(sockets.length, 1);
  navigator.onLine = false;
  clock.tick(100);
  assert.equal(sockets.length, 2);
  assert.deepEqual(getEventListeners(page, 'online'), []);
});

test('1001, 1012 and 1013 are closes like any other', () => {
  random.mock.mockImplementation(() => 0);
  for (const code of [1001, 1012, 1013]) {
    const ws = client();
    last().opens();
    last().ends(code);
    assert.equal(clock.delay, 0);
    ws.close();
  }
});

test('the legacy API has no fallback', () => {
  const fetched = mock.method(globalThis, 'fetch');
  client();
  for (let i = 0; i < 5; i += 1) {
    last().ends(1006);
    clock.tick(30_000);
  }
  assert.equal(fetched.mock.callCount(), 0);
});

test('after a sleep the next heartbeats detect a dead connection', () => {
  client({ heartbeat_msg: HEARTBEAT });
  last().opens();
  clock.sleep(HOUR);
  clock.tick(14_999);
  assert.deepEqual([last().sent.length, last().closeCalls], [3, 0]);
  clock.tick(1);
  assert.equal(last().closeCalls, 1);
});

test('a page may call its client ws4redis', () => {
  globalThis.ws4redis = WS4Redis({ uri: URI }, {});
  assert.ok(globalThis.ws4redis instanceof WS4Redis);
  assert.ok(new WS4Redis({ uri: URI }));
});
