// How the modern API of static/ws4redis.js uses the fallback, and returns from there to the WebSocket. The streams are
// real, the tests simulate the WebSockets, and time passes twenty times as fast.
import assert from 'node:assert/strict';
import { after, afterEach, before, mock, test } from 'node:test';
import { fakeGateway } from './fake_gateway.mjs';
import { BEAT, browser, FakeWebSocket, last, random, sockets } from './fakes.mjs';

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

/** Refuses the WebSockets for which `refusals` has true, one after the other; the test drives all others. */
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
  const got = [];
  const seen = [];
  socket.addEventListener('message', ({ data }) => got.push(typeof data === 'string' ? data : [...new Uint8Array(data)]));
  for (const type of ['open', 'gap', 'close', 'transport']) socket.addEventListener(type, () => seen.push(type));
  return { got, seen };
}

async function until(condition, what, deadline = DEADLINE_MS) {
  for (const end = realNow() + deadline; !condition(); await new Promise((resolve) => realTimeout(resolve, 2))) {
    if (realNow() > end) assert.fail(`not within ${deadline} ms: ${typeof what === 'function' ? what() : what}`);
  }
}

const text = (...texts) => texts.map((one) => `data: ${one}\n\n`).join('');

/** The stream delivers messages; resolves when they have arrived. */
async function streams(got, ...texts) {
  const wanted = got.length + texts.length;
  gateway.write(text(...texts));
  await until(() => got.length === wanted, () => `${texts}; there are ${JSON.stringify(got)}`);
}

/** The client uses a stream that has delivered `history`, and its next WebSocket is open. */
async function overlapping(history = [], options) {
  const { got, seen } = connect(options);
  await until(() => socket.transport === 'sse', 'the stream');
  if (history.length) await streams(got, ...history);
  await until(() => sockets.length === 2, 'the next WebSocket');
  last().opens();
  return { got, seen };
}

const changedOver = () => until(() => socket.transport === 'websocket', 'changed over');

// ---- To the fallback

test('where a WebSocket was open before, one refusal is no reason for the fallback', async () => {
  const { seen } = connect({}, [false, true]);
  last().opens();
  last().ends(1006);
  await until(() => sockets.length === 3, () => `the third WebSocket; ${sockets.length}, ${socket.transport}`);
  last().opens();
  assert.deepEqual([socket.state, socket.transport], ['open', 'websocket']);
  assert.deepEqual(seen, ['open', 'close', 'close', 'open', 'gap']);
  await until(() => gateway.streams.size === 0, 'no stream is left');
});

test('where WebSockets are refused three times in a row and streams are not, the fallback takes over', async () => {
  const { seen } = connect({}, [false, true, true, false, true, true, true]);
  for (const attempt of [1, 4]) {
    await until(() => sockets.length === attempt, `WebSocket ${attempt}`);
    last().opens();
    last().ends(1006);
  }
  await until(() => socket.transport === 'sse', 'the stream');
  assert.deepEqual([sockets.length, seen.filter((type) => type === 'open').length], [7, 3]);
});

test('a refusal of the visitor and the time to wait are heeded also where a WebSocket was open before', async () => {
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

test('where a WebSocket is neither refused nor let pass, the fallback is asked after ten seconds', async () => {
  connect({}, []);
  const since = Date.now();
  await until(() => socket.transport === 'sse', 'the stream');
  assert.ok(Date.now() - since >= 10_000);
  assert.equal(last().closeCalls, 1);
  sockets[0].readyState = 1;
  sockets[0].onopen({});
  assert.equal(socket.transport, 'sse', 'what comes too late counts no more');
});

// ---- Back to the WebSocket

test('from the fallback it goes back to the WebSocket after a while, in silence', async () => {
  const { got, seen } = await overlapping(['one', 'two']);
  last().brings('two');
  assert.equal(socket.transport, 'sse');
  await changedOver();
  assert.deepEqual([socket.state, seen, got], ['open', ['open', 'transport'], ['one', 'two']]);
  last().brings('three');
  await socket.send('four');
  assert.deepEqual([got.at(-1), last().sent, gateway.requests.length], ['three', ['four'], 1]);
  await until(() => gateway.streams.size === 0, 'the stream has ended');
  last().ends(1006);
  assert.deepEqual([socket.state, seen.at(-1)], ['waiting', 'close']);
});

test('it tries again and again, less and less often, while WebSockets are refused', async () => {
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

test('a WebSocket that says nothing, or ends before the change, changes nothing', async () => {
  const { got, seen } = connect();
  await until(() => sockets.length === 2, 'a WebSocket');
  const [, silent] = sockets;
  await until(() => sockets.length === 3, 'the next one');
  assert.equal(silent.closeCalls, 1);
  last().opens();
  last().ends(1012);
  await streams(got, 'one');
  await until(() => sockets.length === 4, 'the next one', 2 * DEADLINE_MS);
  last().opens();
  await changedOver();
  assert.deepEqual([got, seen], [['one'], ['open', 'transport']]);
});

test('what one brings before the other is lost by neither, and comes once and in order', async () => {
  const { got } = await overlapping(['old', 'kept']);
  const socketBrings = (...texts) => texts.forEach((one) => last().brings(one));
  socketBrings('kept', 'a', 'b');
  assert.deepEqual(got, ['old', 'kept']);
  await streams(got, 'a', 'b', 'c');
  socketBrings('c', 'd');
  await streams(got, 'd');
  // From here on there is no quiet second, and one side is always ahead.
  const wanted = ['old', 'kept', 'a', 'b', 'c', 'd'];
  for (let i = 0; socket.transport === 'sse'; i += 1) {
    if (i > 400) assert.fail('no change over');
    gateway.write(text(`${i} first`));
    wanted.push(`${i} first`, `${i} second`);
    await new Promise((resolve) => realTimeout(resolve, 10));
    socketBrings(`${i} first`, `${i} second`);
    await new Promise((resolve) => realTimeout(resolve, 10));
    gateway.write(text(`${i} second`));
    await new Promise((resolve) => realTimeout(resolve, 10));
  }
  socketBrings('end');
  assert.deepEqual(got, [...wanted, 'end']);
});

/** The WebSocket is `count` messages ahead of the stream. */
async function busyFeed(lead) {
  const { got } = await overlapping(['before']);
  last().brings('before');
  const all = Array.from({ length: 2000 }, (_, i) => (i % 7 ? `n${i}` : [i & 255, 1]));
  const raw = (one) => (Array.isArray(one) ? new Uint8Array(one).buffer : one);
  const event = (one) => (Array.isArray(one) ? `event: binary\ndata: ${btoa(String.fromCharCode(...one))}\n\n` : text(one));
  const inner = last();
  let [byStream, bySocket] = [0, 0];
  let count = 0;
  while (bySocket < all.length) {
    count += 1;
    for (; bySocket < Math.min(all.length, count + Math.max(lead, 0)); bySocket += 1) inner.brings(raw(all[bySocket]));
    for (; byStream < Math.min(all.length, count - Math.min(lead, 0)); byStream += 1) gateway.write(event(all[byStream]));
    if (count % 3 === 0) await new Promise((resolve) => realTimeout(resolve, 1));
  }
  await until(() => got.length > all.length, () => `all; there are ${got.length}`);
  assert.equal(socket.transport, 'websocket');
  assert.deepEqual(got, ['before', ...all]);
}

test('a busy feed goes over whole when the stream is ahead', () => busyFeed(-3));
test('a busy feed goes over whole when the WebSocket is ahead', () => busyFeed(3));
test('a busy feed goes over whole when neither is ahead', () => busyFeed(0));

test('equal messages are each delivered', async () => {
  const { got } = await overlapping(['tick', 'tick', 'tick']);
  last().brings('tick');
  for (let i = 0; i < 3; i += 1) {
    last().brings('tick');
    await streams(got, 'tick');
    await new Promise((resolve) => realTimeout(resolve, 20));
  }
  await changedOver();
  last().brings('tick');
  last().brings('tick');
  assert.deepEqual(got, Array(8).fill('tick'));
});

test('ends of lines and bytes are the same from both', async () => {
  const { got } = await overlapping();
  last().brings('a\r\nb\rc');
  last().brings(new Uint8Array([0, 255, 1]).buffer);
  gateway.write('data: a\ndata: b\ndata: c\n\nevent: binary\ndata: AP8B\n\n');
  await changedOver();
  assert.deepEqual(got, ['a\nb\nc', [0, 255, 1]]);
});

test('heartbeats that the page does not know of hold nothing up', async () => {
  const { got } = connect();
  await until(() => sockets.length === 2, 'the next WebSocket');
  gateway.write(`event: heartbeat\ndata: ${BEAT}\n\n`);
  last().opens();
  last().brings(BEAT);
  await changedOver();
  assert.deepEqual(got, []);
});

test('heartbeats are kept apart, and go by the WebSocket afterwards', async () => {
  const { got, seen } = connect({ heartbeat: BEAT });
  const beating = realInterval(() => gateway.write(`event: heartbeat\ndata: ${BEAT}\n\n`), 100);
  try {
    await until(() => sockets.length === 2, 'the next WebSocket');
    last().opens();
    last().brings(BEAT);
    await changedOver();
    last().brings(BEAT);
    await until(() => last().sent.length > 0, 'a heartbeat');
    assert.deepEqual([last().sent[0], got, seen], [BEAT, [], ['open', 'transport']]);
  } finally {
    clearInterval(beating);
  }
});

test('it changes over only when what was posted is answered, and own messages do not come back', async () => {
  const { got } = await overlapping();
  let answer;
  gateway.postStatus = () => new Promise((resolve) => (answer = resolve));
  const posted = socket.send('mine');
  await until(() => answer, 'the POST');
  // As long as an own message is recognized after its answer.
  await new Promise((resolve) => realTimeout(resolve, 6000 / FASTER));
  assert.equal(socket.transport, 'sse');
  const inner = last();
  const changed = changedOver().then(() => socket.send('next'));
  answer(204);
  await posted;
  gateway.write(text('mine', 'other'));
  inner.brings('mine');
  inner.brings('other');
  await changed;
  inner.brings('mine');
  assert.deepEqual([got, inner.sent], [['other', 'mine'], ['next']], 'that of somebody else does');
});

test('an own message that comes back only after the change is left out, too', async () => {
  const { got } = await overlapping();
  const inner = last();
  await socket.send('mine');
  // The stream no longer delivers it.
  mock.method(Date, 'now', () => 0);
  await changedOver();
  inner.brings('mine');
  inner.brings('end');
  assert.deepEqual(got, ['end']);
});

test('a stream that does not bring what the WebSocket brings is dead, and there is a gap', async () => {
  const { got, seen } = await overlapping(['one']);
  last().brings('missed');
  await until(() => sockets.length === 3, 'the next WebSocket', 2 * DEADLINE_MS);
  last().opens();
  assert.deepEqual([socket.transport, seen], ['websocket', ['open', 'close', 'open', 'gap']]);
  last().brings('missed');
  assert.deepEqual(got, ['one', 'missed']);
});

test('a stream that ends while the WebSocket is tried ends both', async () => {
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

test('close() while a WebSocket is tried leaves nothing behind, in each of its stages', async () => {
  for (const stage of ['waiting', 'connecting', 'open', 'changing', 'token']) {
    sockets.length = 0;
    gateway.requests.length = 0;
    const timers = new Set();
    let asked = 0;
    const { got, seen } = connect({ token: stage === 'token' && (() => ((asked += 1) > 1 ? new Promise(() => {}) : 'x')) });
    const [set, clear] = [globalThis.setTimeout, globalThis.clearTimeout];
    globalThis.setTimeout = (callback, ms, ...rest) => {
      const id = set(() => {
        timers.delete(id);
        callback(...rest);
      }, ms);
      // Requests have timers of their own.
      if (new Error().stack.includes('ws4redis.js')) timers.add(id);
      return id;
    };
    globalThis.clearTimeout = (id) => {
      timers.delete(id);
      clear(id);
    };
    await until(() => socket.transport === 'sse', 'the stream');
    if (stage === 'token') await until(() => asked === 2, 'the token');
    else if (stage !== 'waiting') await until(() => sockets.length === 2, 'a WebSocket');
    if (stage === 'open' || stage === 'changing') last().opens();
    if (stage === 'changing') socket.addEventListener('transport', () => socket.close());
    else socket.close();
    await until(() => socket.state === 'closed', 'closed');
    if (stage === 'changing') last().brings('late');
    assert.equal(timers.size, 0, stage);
    if (sockets.length === 2) assert.equal(last().closeCalls, 1, stage);
    await until(() => gateway.streams.size === 0, 'the stream has ended');
    assert.deepEqual([got, seen.at(-1)], [[], 'close'], stage);
    globalThis.clearTimeout = clear;
  }
});

test('each try has a token of its own, and one that is not to be had is a failed try', async () => {
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
