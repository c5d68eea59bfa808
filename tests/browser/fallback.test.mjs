// The fallback of the modern API of static/ws4redis.js, with a fake gateway that refuses WebSockets.
import assert from 'node:assert/strict';
import { after, afterEach, before, mock, test } from 'node:test';
import { fakeGateway } from './fake_gateway.mjs';
import { HEARTBEAT, browser, FakeWebSocket, random, sockets } from './fakes.mjs';

const DEADLINE_MS = 5000;
const realFetch = globalThis.fetch;
let gateway;
let open = [];

before(async () => (gateway = await fakeGateway()));
after(() => gateway.stop());
browser({ realTime: true });
afterEach(() => {
  for (const socket of open) socket.close();
  open = [];
  Object.assign(gateway, { answers: [null], requests: [], postStatus: () => 204 });
});

/** Connects; WebSockets are refused except where `upgrades` has true. */
function connect(options, upgrades = []) {
  globalThis.fetch = realFetch;
  globalThis.WebSocket = class extends FakeWebSocket {
    constructor(...args) {
      super(...args);
      const there = upgrades.shift();
      setImmediate(() => (there ? this.opens() : this.ends(1006)));
    }
  };
  random.mock.mockImplementation(() => 0);
  const socket = WS4Redis.connect(`${gateway.origin}/ws/foobar`, { subscribe: ['broadcast'], publish: ['user'], ...options });
  open.push(socket);
  return socket;
}

/** Resolves with the next event of a type; fails after the deadline. */
function next(socket, type, wanted = () => true) {
  return new Promise((resolve, reject) => {
    const late = setTimeout(() => reject(new Error(`no ${type} event`)), DEADLINE_MS);
    socket.addEventListener(type, function listener(event) {
      if (!wanted(event)) return;
      clearTimeout(late);
      socket.removeEventListener(type, listener);
      resolve(event);
    });
  });
}

async function until(condition, what) {
  for (const end = Date.now() + DEADLINE_MS; !condition(); await new Promise((resolve) => setTimeout(resolve, 5))) {
    if (Date.now() > end) assert.fail(`not within ${DEADLINE_MS} ms: ${what}`);
  }
}

const reaches = (socket, state) => until(() => socket.state === state, `${state}; it is ${socket.state}`);

/** Opens a stream and returns the socket with the list of its messages. */
async function streaming(options) {
  const socket = connect(options);
  const received = [];
  socket.addEventListener('message', ({ data }) => received.push(data));
  await next(socket, 'open');
  return { socket, received };
}

test('after a refused upgrade the client requests a stream at the same address, with its client flag', async () => {
  const { socket } = await streaming();
  assert.deepEqual([socket.state, socket.transport, sockets.length], ['open', 'sse', 1]);
  assert.equal(gateway.requests.length, 1);
  const [{ method, url, headers }] = gateway.requests;
  assert.deepEqual([method, url], ['GET', '/ws/foobar?subscribe-broadcast&publish-user&client=ws4redis']);
  assert.equal(headers.accept, 'text/event-stream');
  assert.equal(headers.authorization, undefined);
});

test('an address without flags gets the client flag as well', async () => {
  connect({ subscribe: [], publish: [] });
  await until(() => gateway.requests.length === 1, 'the request');
  assert.equal(gateway.requests[0].url, '/ws/foobar?client=ws4redis');
});

test('text and binary messages are delivered, heartbeats and comments are not', async () => {
  const { received } = await streaming({ heartbeat: HEARTBEAT });
  gateway.write(
    ': comment\n\n' +
      'data: Hello\n\n' +
      `event: heartbeat\ndata: ${HEARTBEAT}\n\n` +
      'data: two\ndata:  lines \ndata:\n\n' +
      'event: binary\ndata: AP8B\n\n' +
      'event: other\ndata: x\n\n' +
      'event: message\nid: 7\ndata: {"a":1}\n\n' +
      'data: Grüße, 你好 🦀\n\n',
  );
  await until(() => received.length === 5, `five messages; there are ${received.length}`);
  assert.deepEqual([...new Uint8Array(received[2])], [0, 255, 1]);
  assert.ok(received[2] instanceof ArrayBuffer);
  received.splice(2, 1);
  assert.deepEqual(received, ['Hello', 'two\n lines \n', '{"a":1}', 'Grüße, 你好 🦀']);
});

test('the stream may be split anywhere, with any kind of line break', async () => {
  const text = 'data: ü1\ndata: 🦀\n\nevent: binary\ndata: AP8B\n\ndata: end\n\n';
  for (const whole of [text, text.replaceAll('\n', '\r\n'), text.replaceAll('\n', '\r')]) {
    const bytes = new TextEncoder().encode(whole);
    for (const size of [1, 2, 3, 7, bytes.length]) {
      const received = [];
      globalThis.fetch = async () => new Response(
        new ReadableStream({
          start(body) {
            for (let at = 0; at < bytes.length; at += size) body.enqueue(bytes.slice(at, at + size));
            // A final CR may be half a line break, so the event ends only with the next line.
            body.enqueue(new TextEncoder().encode(':\n'));
            body.close();
          },
        }),
        { headers: { 'Content-Type': 'text/event-stream' } },
      );
      const piped = globalThis.fetch;
      const socket = connect();
      globalThis.fetch = piped;
      socket.addEventListener('message', ({ data }) => received.push(typeof data === 'string' ? data : data.byteLength));
      await next(socket, 'close');
      socket.close();
      assert.deepEqual(received, ['ü1\n🦀', 3, 'end'], `${JSON.stringify(whole.slice(8, 12))} in pieces of ${size}`);
    }
  }
});

test('a large message in many pieces is delivered whole and without a long delay', async () => {
  const { received } = await streaming();
  const line = 'x'.repeat(1 << 20);
  const since = Date.now();
  gateway.write(`data: ${line}\n`.repeat(15) + `data: ${line}\n\n`);
  await until(() => received.length === 1, 'the message');
  assert.equal(received[0].length, 16 * (1 << 20) + 15);
  assert.ok(Date.now() - since < 3000);
});

test('send posts messages with the X-WS4Redis header, one after the other', async () => {
  const { socket } = await streaming();
  gateway.requests.length = 0;
  let underWay = 0;
  let most = 0;
  gateway.postStatus = async () => {
    most = Math.max(most, (underWay += 1));
    await new Promise((resolve) => setTimeout(resolve, 20));
    underWay -= 1;
    return 200;
  };
  const bytes = new Uint8Array([7, 0, 255, 1, 7]);
  const view = new DataView(bytes.buffer, 1, 3);
  const sent = [socket.send('Grüße'), socket.send(view), socket.sendJSON({ a: 1 })];
  bytes.fill(7);
  assert.deepEqual(await Promise.all(sent), [undefined, undefined, undefined]);
  assert.equal(most, 1);
  assert.deepEqual(
    gateway.requests.map(({ method, url, headers, body }) => [
      ...[method, url, headers['x-ws4redis'], headers['content-type']],
      ...[...body],
    ]),
    [
      ['text/plain;charset=utf-8', Buffer.from('Grüße')],
      ['application/octet-stream', [0, 255, 1]],
      ['text/plain;charset=utf-8', Buffer.from('{"a":1}')],
    ].map(([type, body]) => ['POST', '/ws/foobar?subscribe-broadcast&publish-user', '1', type, ...body]),
  );
});

test('a failed POST rejects its own message only', async () => {
  const { socket } = await streaming();
  for (const status of [302, 403, 413, 429, 502, 503]) {
    gateway.postStatus = () => status;
    await assert.rejects(socket.send('lost'), new RegExp(`HTTP ${status}`));
  }
  gateway.postStatus = () => 204;
  await socket.send('taken');
  assert.equal(socket.state, 'open');
});

test('a POST without a response fails after 20 s with the queued ones, and later ones are sent', async () => {
  const real = globalThis.setTimeout;
  const twentySeconds = [];
  const { socket } = await streaming();
  globalThis.setTimeout = (callback, ms) => (ms === 20_000 ? twentySeconds.push(callback) : real(callback, ms));
  try {
    gateway.requests.length = 0;
    gateway.postStatus = ({ body }) => (`${body}` === 'hangs' ? new Promise(() => {}) : 204);
    const failures = ['hangs', 'behind'].map((text) => assert.rejects(socket.send(text), /no answer/));
    await until(() => gateway.requests.length === 1, 'the first POST');
    assert.equal(twentySeconds.length, 1);
    twentySeconds[0]();
    await Promise.all(failures);
    await socket.send('later');
    assert.deepEqual(gateway.requests.map(({ body }) => `${body}`), ['hangs', 'later']);
  } finally {
    globalThis.setTimeout = real;
  }
});

test('without echo own messages do not return, but equal messages of others do', async () => {
  const { socket, received } = await streaming({ subscribe: ['user'], publish: ['user'] });
  await socket.send('mine\r\ntwo lines');
  gateway.write('data: other\n\ndata: mine\ndata: two lines\n\ndata: mine\ndata: two lines\n\ndata: end\n\n');
  await until(() => received.at(-1) === 'end', 'all messages');
  assert.deepEqual(received, ['other', 'mine\ntwo lines', 'end']);
});

test('with echo, or without a subscription of the same audience, every message is delivered', async () => {
  for (const options of [{ subscribe: ['user'], publish: ['user'], echo: true }, {}]) {
    const { socket, received } = await streaming(options);
    await socket.send('mine');
    gateway.write('data: mine\n\ndata: end\n\n');
    await until(() => received.at(-1) === 'end', 'all messages');
    assert.deepEqual(received, ['mine', 'end']);
    socket.close();
  }
});

test('a failed message suppresses no later message', async () => {
  const { socket, received } = await streaming({ subscribe: ['user'], publish: ['user'] });
  gateway.postStatus = () => 503;
  await assert.rejects(socket.send('mine'));
  gateway.write('data: mine\n\n');
  await until(() => received.length, 'the message of another client');
});

test('queued messages are posted first', async () => {
  const socket = connect({ queue: 5 });
  const sent = ['one', 'two'].map((text) => socket.send(text));
  socket.addEventListener('open', () => sent.push(socket.send('three')));
  await next(socket, 'open');
  await Promise.all(sent);
  const posts = gateway.requests.filter(({ method }) => method === 'POST');
  assert.deepEqual(posts.map(({ body }) => `${body}`), ['one', 'two', 'three']);
});

test('a token is sent in the Authorization header', async () => {
  const { socket } = await streaming({ token: async () => 'a.b.c' });
  await socket.send('Hello');
  assert.deepEqual(gateway.requests.map(({ headers }) => headers.authorization), ['Bearer a.b.c', 'Bearer a.b.c']);
});

test('403 is final, and the close event has the reason', async () => {
  gateway.answers = [{ status: 403, headers: { 'Content-Type': 'text/plain; charset=utf-8' }, body: 'not here\n' }];
  const socket = connect();
  const { code, reason, final } = await next(socket, 'close');
  assert.deepEqual({ code, reason, final }, { code: 1008, reason: 'HTTP 403 not here', final: true });
  assert.equal(socket.state, 'closed');
});

test('after 503 the client waits for Retry-After', async () => {
  for (const [after, least, most] of [
    ['7', 7000, 7000],
    ['0', 1000, 1000],
    [new Date(Date.now() + 20_000).toUTCString(), 17_000, 20_000],
    ['99999999999', 3_600_000, 3_600_000],
    ['nonsense', 1000, 1000],
    [undefined, 1000, 1000],
  ]) {
    gateway.answers = [{ status: 503, headers: after === undefined ? {} : { 'Retry-After': after } }];
    const socket = connect();
    const { delay } = await next(socket, 'state', ({ state }) => state === 'waiting');
    socket.close();
    assert.ok(delay >= least && delay <= most, `${after}: ${delay} ms`);
  }
});

test('a visible tab or a network event does not shorten Retry-After', async () => {
  gateway.answers = [{ status: 503, headers: { 'Retry-After': '1' } }, null];
  const socket = connect();
  const since = Date.now();
  await reaches(socket, 'waiting');
  document.dispatchEvent(new Event('visibilitychange'));
  assert.equal(socket.state, 'waiting');
  await reaches(socket, 'open');
  assert.ok(Date.now() - since >= 1000);
});

test('any other response is a failed attempt, and the next attempt is a WebSocket', async () => {
  const page = { status: 200, headers: { 'Content-Type': 'text/html' }, body: '<h1>Welcome</h1>' };
  const login = { status: 302, headers: { Location: '/ws/elsewhere' } };
  const errors = [400, 404, 500, 502].map((status) => ({ status }));
  gateway.answers = [...errors, page, login, { status: 404 }, null];
  const socket = connect();
  const seen = [];
  socket.addEventListener('state', ({ state }) => seen.push(state));
  await next(socket, 'open');
  assert.deepEqual(seen, [...Array(7).fill(['waiting', 'connecting']).flat(), 'open']);
  assert.deepEqual([sockets.length, gateway.requests.length], [8, 8]);
});

test('after the end of a stream the client reconnects, by WebSocket if possible', async () => {
  const socket = connect({}, [false, true]);
  await next(socket, 'open');
  assert.equal(socket.transport, 'sse');
  gateway.endStreams();
  await next(socket, 'gap');
  assert.equal(socket.transport, 'websocket');
});

test('code and reason of a close event in the stream apply as in a WebSocket close', async () => {
  for (const [code, state] of [
    [4401, 'session-ended'],
    [1012, 'waiting'],
    [1008, 'closed'],
  ]) {
    const { socket } = await streaming();
    random.mock.mockImplementation(() => 0.9);
    gateway.write(`event: close\ndata: {"code":${code},"reason":"because"}\n\n`);
    gateway.endStreams();
    const event = await next(socket, 'close');
    assert.deepEqual([event.code, event.reason, socket.state], [code, 'because', state]);
    socket.close();
  }
});

test('after 4401 only a refusal of the visitor is final', async () => {
  gateway.answers = [{ status: 502 }, { status: 503 }, { status: 404 }];
  const socket = connect({}, [true]);
  await next(socket, 'open');
  sockets[0].ends(4401);
  const { code, final } = await next(socket, 'close', (event) => event.final);
  assert.deepEqual([code, final, gateway.requests.length], [1006, true, 3]);
});

test('close() ends the stream, also while it is requested', async () => {
  const { socket } = await streaming();
  await until(() => gateway.streams.size === 1, 'the stream is open');
  socket.close();
  await until(() => gateway.streams.size === 0, 'the stream has ended');
  gateway.answers = [null];
  const early = connect();
  await until(() => gateway.requests.length === 2, 'the second request');
  early.close();
  await until(() => gateway.streams.size === 0, 'that stream has ended');
  assert.equal(early.state, 'closed');
});

test('messages sent before close() are published', async () => {
  const { socket } = await streaming();
  const sent = [socket.send('one'), socket.send('two')];
  socket.close();
  await Promise.all(sent);
  assert.equal(gateway.requests.filter(({ method }) => method === 'POST').length, 2);
});

test('any data keeps a stream alive, silence ends it', async () => {
  // Ticks every 20 ms instead of 5 s.
  const set = globalThis.setInterval;
  mock.method(globalThis, 'setInterval', (callback) => set(callback, 20));
  const { socket } = await streaming({ heartbeat: HEARTBEAT });
  for (let i = 0; i < 10; i += 1) {
    gateway.write(': alive\n\n');
    await new Promise((resolve) => setTimeout(resolve, 20));
  }
  assert.deepEqual([socket.state, gateway.requests.length], ['open', 1]);
  const { reason } = await next(socket, 'close');
  assert.equal(reason, 'no heartbeat');
  assert.ok(gateway.requests.every(({ method }) => method === 'GET'), 'heartbeats are not published');
});

test('the fallback works without a usable WebSocket constructor', async () => {
  const socket = connect();
  socket.close();
  for (const missing of [undefined, class { constructor() { throw new Error('not in this browser'); } }]) {
    globalThis.WebSocket = missing;
    const one = WS4Redis.connect(`${gateway.origin}/ws/foobar`);
    open.push(one);
    await next(one, 'open');
    assert.equal(one.transport, 'sse');
  }
});

test('with fallback: false the client requests no stream', async () => {
  const socket = connect({ fallback: false }, [false, false, true]);
  await next(socket, 'open');
  assert.deepEqual([sockets.length, gateway.requests.length], [3, 0]);
});

test('only a refused upgrade leads to the fallback', async () => {
  const socket = connect({}, [true, true]);
  await next(socket, 'open');
  sockets[0].ends(1006);
  await next(socket, 'open');
  assert.deepEqual([sockets.length, gateway.requests.length], [2, 0]);
});
