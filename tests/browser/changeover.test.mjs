// The changeover of the modern API to the fallback and back to the WebSocket. The event streams are real, the WebSockets
// simulated, and time passes twenty times as fast.
import assert from 'node:assert/strict';
import { after, afterEach, before, mock, test } from 'node:test';
import { fakeGateway } from './fake_gateway.mjs';
import { HEARTBEAT, browser, FakeWebSocket, last, random, sockets } from './fakes.mjs';

const DEADLINE_MS = 5000;
const FASTER = 20;
const realFetch = globalThis.fetch;
const realTimeout = globalThis.setTimeout;
const realInterval = globalThis.setInterval;
const realNow = Date.now;
const FLAGS = { subscribe: ['broadcast'], publish: ['broadcast'] };
let gateway;
let socket;

before(async () => (gateway = await fakeGateway()));
after(() => gateway.stop());
browser({ realTime: true });
afterEach(() => {
  socket?.close();
  Object.assign(globalThis, { setTimeout: realTimeout, setInterval: realInterval });
  gateway.endStreams();
  Object.assign(gateway, { answers: [null], requests: [], postStatus: () => 204 });
});

/** Connects. Each WebSocket takes the next value of `refusals`: it is refused if true; otherwise the test drives it. */
function connect(options, refusals = [true]) {
  globalThis.fetch = realFetch;
  globalThis.setTimeout = (callback, ms, ...rest) => realTimeout(callback, ms / FASTER, ...rest);
  globalThis.setInterval = (callback, ms, ...rest) => realInterval(callback, ms / FASTER, ...rest);
  const since = realNow();
  mock.method(Date, 'now', () => since + (realNow() - since) * FASTER);
  random.mock.mockImplementation(() => 0);
  globalThis.WebSocket = class extends FakeWebSocket {
    constructor(...args) {
      super(...args);
      if (refusals.shift()) setImmediate(() => this.ends(1006));
    }
  };
  socket = WS4Redis.connect(`${gateway.origin}/ws/foobar`, { ...FLAGS, ...options });
  const received = [];
  const seen = [];
  socket.addEventListener('message', ({ data }) => received.push(typeof data === 'string' ? data : [...new Uint8Array(data)]));
  for (const type of ['open', 'gap', 'close', 'transport']) socket.addEventListener(type, () => seen.push(type));
  return { received, seen };
}

async function until(condition, what, deadline = DEADLINE_MS) {
  for (const end = realNow() + deadline; !condition(); await new Promise((resolve) => realTimeout(resolve, 2))) {
    if (realNow() > end) assert.fail(`not within ${deadline} ms: ${typeof what === 'function' ? what() : what}`);
  }
}

const text = (...texts) => texts.map((one) => `data: ${one}\n\n`).join('');

/** The stream delivers messages; resolves when they have arrived. */
async function streams(received, ...texts) {
  const wanted = received.length + texts.length;
  gateway.write(text(...texts));
  await until(() => received.length === wanted, () => `${texts}; there are ${JSON.stringify(received)}`);
}

/** Connects by a stream that delivers `history`, and opens the next WebSocket: both transports overlap. */
async function overlapping(history = [], options) {
  const { received, seen } = connect(options);
  await until(() => socket.transport === 'sse', 'the stream');
  if (history.length) await streams(received, ...history);
  await until(() => sockets.length === 2, 'the next WebSocket');
  last().opens();
  return { received, seen };
}

const changedOver = () => until(() => socket.transport === 'websocket', 'changed over');

// ---- To the fallback

test('after an open WebSocket one refusal does not lead to the fallback', async () => {
  const { seen } = connect({}, [false, true]);
  last().opens();
  last().ends(1006);
  await until(() => sockets.length === 3, () => `the third WebSocket; ${sockets.length}, ${socket.transport}`);
  last().opens();
  assert.deepEqual([socket.state, socket.transport], ['open', 'websocket']);
  assert.deepEqual(seen, ['open', 'close', 'close', 'open', 'gap']);
  await until(() => gateway.streams.size === 0, 'no stream is left');
});

test('after three refused WebSockets in a row the fallback takes over if streams pass', async () => {
  const { seen } = connect({}, [false, true, true, false, true, true, true]);
  for (const attempt of [1, 4]) {
    await until(() => sockets.length === attempt, `WebSocket ${attempt}`);
    last().opens();
    last().ends(1006);
  }
  await until(() => socket.transport === 'sse', 'the stream');
  assert.deepEqual([sockets.length, seen.filter((type) => type === 'open').length], [7, 3]);
});

test('403 and Retry-After apply also after an open WebSocket', async () => {
  for (const [answer, state] of [
    [{ status: 403 }, 'closed'],
    [{ status: 503, headers: { 'Retry-After': '700' } }, 'waiting'],
  ]) {
    connect({}, [false, true]);
    gateway.answers = [answer];
    let delay;
    socket.addEventListener('state', (event) => (delay = event.delay));
    last().opens();
    last().ends(1006);
    await until(() => socket.state === state && (state === 'closed' || delay === 700_000), () => `${state}: ${delay}`);
    socket.close();
    sockets.length = 0;
  }
});

test('a WebSocket that neither opens nor fails leads to the fallback after ten seconds', async () => {
  // Node runs timers of one turn and one delay in the order of their creation, however late the turn is.
  let over = false;
  realTimeout(() => (over = true), 10_000 / FASTER);
  connect({}, []);
  let early;
  socket.addEventListener('transport', () => (early = !over));
  await until(() => socket.transport === 'sse', 'the stream');
  assert.deepEqual([over, early ?? false], [true, false], 'not before ten seconds');
  assert.equal(last().closeCalls, 1);
  sockets[0].readyState = 1;
  sockets[0].onopen({});
  assert.equal(socket.transport, 'sse', 'a late open has no effect');
});

// ---- Back to the WebSocket

test('the fallback changes over to the WebSocket after a while, without an open or gap event', async () => {
  const { received, seen } = await overlapping(['one', 'two']);
  last().delivers('two');
  assert.equal(socket.transport, 'sse');
  await changedOver();
  assert.deepEqual([socket.state, seen, received], ['open', ['open', 'transport'], ['one', 'two']]);
  last().delivers('three');
  await socket.send('four');
  assert.deepEqual([received.at(-1), last().sent, gateway.requests.length], ['three', ['four'], 1]);
  await until(() => gateway.streams.size === 0, 'the stream has ended');
  last().ends(1006);
  assert.deepEqual([socket.state, seen.at(-1)], ['waiting', 'close']);
});

test('it keeps trying with growing delays while WebSockets are refused', async () => {
  const { seen } = connect({}, Array(5).fill(true));
  const at = [];
  for (let count = 2; count <= 5; count += 1) {
    await until(() => sockets.length === count, `WebSocket ${count}`);
    at.push(Date.now());
  }
  const waits = at.slice(1).map((time, index) => time - at[index]);
  for (const [index, wait] of [15_000, 30_000, 60_000].entries())
    assert.ok(waits[index] >= 0.9 * wait && waits[index] < 1.6 * wait, `${waits} ms; ${seen}`);
  assert.deepEqual([socket.transport, seen], ['sse', ['open']]);
});

test('a WebSocket that stays silent, or ends before the changeover, has no effect', async () => {
  const { received, seen } = connect();
  await until(() => sockets.length === 2, 'a WebSocket');
  const [, silent] = sockets;
  await until(() => sockets.length === 3, 'the next one');
  assert.equal(silent.closeCalls, 1);
  last().opens();
  last().ends(1012);
  await streams(received, 'one');
  await until(() => sockets.length === 4, 'the next one', 2 * DEADLINE_MS);
  last().opens();
  await changedOver();
  assert.deepEqual([received, seen], [['one'], ['open', 'transport']]);
});

test('messages that arrive on one transport first are delivered once and in order', async () => {
  const { received } = await overlapping(['old', 'kept']);
  const socketDelivers = (...texts) => texts.forEach((one) => last().delivers(one));
  socketDelivers('kept', 'a', 'b');
  assert.deepEqual(received, ['old', 'kept']);
  await streams(received, 'a', 'b', 'c');
  socketDelivers('c', 'd');
  await streams(received, 'd');
  // From now on there is no idle second, and one transport is always ahead.
  const wanted = ['old', 'kept', 'a', 'b', 'c', 'd'];
  for (let i = 0; socket.transport === 'sse'; i += 1) {
    if (i > 400) assert.fail('no changeover');
    gateway.write(text(`${i} first`));
    wanted.push(`${i} first`, `${i} second`);
    await new Promise((resolve) => realTimeout(resolve, 10));
    socketDelivers(`${i} first`, `${i} second`);
    await new Promise((resolve) => realTimeout(resolve, 10));
    gateway.write(text(`${i} second`));
    await new Promise((resolve) => realTimeout(resolve, 10));
  }
  socketDelivers('end');
  assert.deepEqual(received, [...wanted, 'end']);
});

/** Delivers 2,000 messages on both transports; the WebSocket is `lead` messages ahead of the stream. */
async function busyFeed(lead) {
  const { received } = await overlapping(['before']);
  last().delivers('before');
  const all = Array.from({ length: 2000 }, (_, i) => (i % 7 ? `n${i}` : [i & 255, 1]));
  const raw = (one) => (Array.isArray(one) ? new Uint8Array(one).buffer : one);
  const event = (one) => (Array.isArray(one) ? `event: binary\ndata: ${btoa(String.fromCharCode(...one))}\n\n` : text(one));
  const inner = last();
  let [byStream, bySocket] = [0, 0];
  let count = 0;
  while (bySocket < all.length) {
    count += 1;
    for (; bySocket < Math.min(all.length, count + Math.max(lead, 0)); bySocket += 1) inner.delivers(raw(all[bySocket]));
    for (; byStream < Math.min(all.length, count - Math.min(lead, 0)); byStream += 1) gateway.write(event(all[byStream]));
    if (count % 3 === 0) await new Promise((resolve) => realTimeout(resolve, 1));
  }
  await until(() => received.length > all.length, () => `all; there are ${received.length}`);
  assert.equal(socket.transport, 'websocket');
  assert.deepEqual(received, ['before', ...all]);
}

test('a busy feed changes over without a loss when the stream is ahead', () => busyFeed(-3));
test('a busy feed changes over without a loss when the WebSocket is ahead', () => busyFeed(3));
test('a busy feed changes over without a loss when neither is ahead', () => busyFeed(0));

test('each of several equal messages is delivered', async () => {
  const { received } = await overlapping(['tick', 'tick', 'tick']);
  last().delivers('tick');
  for (let i = 0; i < 3; i += 1) {
    last().delivers('tick');
    await streams(received, 'tick');
    await new Promise((resolve) => realTimeout(resolve, 20));
  }
  await changedOver();
  last().delivers('tick');
  last().delivers('tick');
  assert.deepEqual(received, Array(8).fill('tick'));
});

test('line breaks and bytes are the same on both transports', async () => {
  const { received } = await overlapping();
  last().delivers('a\r\nb\rc');
  last().delivers(new Uint8Array([0, 255, 1]).buffer);
  gateway.write('data: a\ndata: b\ndata: c\n\nevent: binary\ndata: AP8B\n\n');
  await changedOver();
  assert.deepEqual(received, ['a\nb\nc', [0, 255, 1]]);
});

test('heartbeats do not delay the changeover of a page without the option', async () => {
  const { received } = connect();
  await until(() => sockets.length === 2, 'the next WebSocket');
  gateway.write(`event: heartbeat\ndata: ${HEARTBEAT}\n\n`);
  last().opens();
  last().delivers(HEARTBEAT);
  await changedOver();
  assert.deepEqual(received, []);
});

test('heartbeats are not messages, and use the WebSocket after the changeover', async () => {
  const { received, seen } = connect({ heartbeat: HEARTBEAT });
  const beating = realInterval(() => gateway.write(`event: heartbeat\ndata: ${HEARTBEAT}\n\n`), 100);
  try {
    await until(() => sockets.length === 2, 'the next WebSocket');
    last().opens();
    last().delivers(HEARTBEAT);
    await changedOver();
    last().delivers(HEARTBEAT);
    await until(() => last().sent.length > 0, 'a heartbeat');
    assert.deepEqual([last().sent[0], received, seen], [HEARTBEAT, [], ['open', 'transport']]);
  } finally {
    clearInterval(beating);
  }
});

test('the changeover waits for the response to a POST, and own messages do not return', async () => {
  const { received } = await overlapping();
  let answer;
  gateway.postStatus = () => new Promise((resolve) => (answer = resolve));
  const posted = socket.send('mine');
  await until(() => answer, 'the POST');
  // The time in which an own message is recognized after the response.
  await new Promise((resolve) => realTimeout(resolve, 6000 / FASTER));
  assert.equal(socket.transport, 'sse');
  const inner = last();
  const changed = changedOver().then(() => socket.send('next'));
  answer(204);
  await posted;
  gateway.write(text('mine', 'other'));
  inner.delivers('mine');
  inner.delivers('other');
  await changed;
  inner.delivers('mine');
  assert.deepEqual([received, inner.sent], [['other', 'mine'], ['next']], 'an equal message of another client does return');
});

test('an own message that returns after the changeover is dropped as well', async () => {
  const { received } = await overlapping();
  const inner = last();
  await socket.send('mine');
  // The stream never delivers it; the stopped clock keeps the client waiting for it.
  mock.method(Date, 'now', () => 0);
  await changedOver();
  inner.delivers('mine');
  inner.delivers('end');
  assert.deepEqual(received, ['end']);
});

test('a stream that lacks messages of the WebSocket is replaced, with a gap event', async () => {
  const { received, seen } = await overlapping(['one']);
  last().delivers('missed');
  await until(() => sockets.length === 3, 'the next WebSocket', 2 * DEADLINE_MS);
  last().opens();
  assert.deepEqual([socket.transport, seen], ['websocket', ['open', 'close', 'open', 'gap']]);
  last().delivers('missed');
  assert.deepEqual(received, ['one', 'missed']);
});

test('a stream that ends during an attempt ends the attempt as well', async () => {
  const { seen } = await overlapping();
  const trying = last();
  gateway.endStreams();
  await until(() => sockets.length === 3, 'the next WebSocket');
  assert.equal(trying.closeCalls, 1);
  last().opens();
  trying.onopen({});
  trying.onmessage({ data: 'late' });
  trying.onclose({ code: 1006 });
  assert.deepEqual([seen, socket.transport], [['open', 'close', 'open', 'gap'], 'websocket']);
});

test('close() during an attempt leaves no timer, socket or stream, at each stage', async () => {
  for (const stage of ['waiting', 'connecting', 'open', 'changing', 'token']) {
    sockets.length = 0;
    gateway.requests.length = 0;
    const timers = new Set();
    let tokenCalls = 0;
    const { received, seen } = connect({ token: stage === 'token' && (() => ((tokenCalls += 1) > 1 ? new Promise(() => {}) : 'x')) });
    const [set, clear] = [globalThis.setTimeout, globalThis.clearTimeout];
    globalThis.setTimeout = (callback, ms, ...rest) => {
      const id = set(() => {
        timers.delete(id);
        callback(...rest);
      }, ms);
      // fetch() sets timers of its own, which do not count.
      if (new Error().stack.includes('ws4redis.js')) timers.add(id);
      return id;
    };
    globalThis.clearTimeout = (id) => {
      timers.delete(id);
      clear(id);
    };
    await until(() => socket.transport === 'sse', 'the stream');
    if (stage === 'token') await until(() => tokenCalls === 2, 'the token');
    else if (stage !== 'waiting') await until(() => sockets.length === 2, 'a WebSocket');
    if (stage === 'open' || stage === 'changing') last().opens();
    if (stage === 'changing') socket.addEventListener('transport', () => socket.close());
    else socket.close();
    await until(() => socket.state === 'closed', 'closed');
    if (stage === 'changing') last().delivers('late');
    assert.equal(timers.size, 0, stage);
    if (sockets.length === 2) assert.equal(last().closeCalls, 1, stage);
    await until(() => gateway.streams.size === 0, 'the stream has ended');
    assert.deepEqual([received, seen.at(-1)], [[], 'close'], stage);
    globalThis.clearTimeout = clear;
  }
});

test('each attempt gets a new token, and a failed token is a failed attempt', async () => {
  let serial = 0;
  connect({
    token: () => {
      serial += 1;
      if (serial === 2) throw new Error('the site is down');
      return `t${serial}`;
    },
  });
  await until(() => sockets.length === 2, 'a WebSocket');
  assert.deepEqual(sockets.map(({ protocols }) => protocols[1]), ['bearer.t1', 'bearer.t3']);
  last().opens();
  await changedOver();
});
