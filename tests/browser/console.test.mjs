// What the client tells the console, with a fake gateway.
import assert from 'node:assert/strict';
import { after, afterEach, before, beforeEach, mock, test } from 'node:test';
import { fakeGateway } from './fake_gateway.mjs';
import { FakeWebSocket, browser, random, sockets } from './fakes.mjs';

const DEADLINE_MS = 5000;
const realFetch = globalThis.fetch;
const IDENTITY = {
  user: null,
  groups: [],
  logged_in: false,
  known_by: null,
  cookie: false,
  session: false,
  expires_in: null,
  granted: ['broadcast'],
  refused: ['user'],
  advice: ['flags not granted: user'],
};
let gateway;
let told;
let open = [];

before(async () => (gateway = await fakeGateway()));
after(() => gateway.stop());
browser({ realTime: true });
beforeEach(() => {
  globalThis.fetch = realFetch;
  random.mock.mockImplementation(() => 0);
  told = [];
  for (const level of ['info', 'warn']) mock.method(console, level, (text) => told.push(text));
});
afterEach(() => {
  open.forEach((socket) => socket.close());
  open = [];
  Object.assign(gateway, { answers: [null], requests: [], questions: [], identity: json(IDENTITY) });
});

const json = (value) => ({ status: 200, headers: { 'Content-Type': 'application/json' }, body: JSON.stringify(value) });
const page = (status) => ({ status, headers: { 'Content-Type': 'text/html' }, body: '<h1>Not here</h1>' });
const plain = (status, body) => ({ status, headers: { 'Content-Type': 'text/plain' }, body });

/** WebSockets are refused, or open. */
function upgrades(there) {
  globalThis.WebSocket = class extends FakeWebSocket {
    constructor(...args) {
      super(...args);
      setImmediate(() => (there ? this.opens() : this.ends(1006)));
    }
  };
}

function connect(options, host = gateway.origin) {
  const socket = WS4Redis.connect(`${host}/ws/foobar`, { subscribe: ['broadcast', 'user'], ...options });
  open.push(socket);
  return socket;
}

async function until(condition, what) {
  for (const end = Date.now() + DEADLINE_MS; !condition(); await new Promise((resolve) => setTimeout(resolve, 5))) {
    if (Date.now() > end) assert.fail(`not within ${DEADLINE_MS} ms: ${what}; told: ${told}`);
  }
}

for (const [name, start] of [
  ['with the fallback', () => connect()],
  ['without it', () => connect({ fallback: false })],
  ['by the legacy API', () => open.push(new WS4Redis({ uri: `${gateway.origin.replace('http', 'ws')}/ws/foobar?subscribe-user` }))],
]) {
  test(`a refused connection is told once with its cause, ${name}`, async () => {
    upgrades(false);
    for (const [answer, part] of [
      [page(404), 'no gateway here (HTTP 404)'],
      [plain(403, 'the origin https://a.example of the page does not match\n'), 'HTTP 403 the origin https://a.example'],
      [page(502), 'HTTP 502'],
    ]) {
      Object.assign(gateway, { answers: [answer], identity: answer });
      told = [];
      sockets.length = 0;
      start();
      if (answer.status === 403 && name === 'with the fallback') await until(() => told.length > 0, part);
      else await until(() => told.length > 0 && sockets.length > 1, part);
      assert.equal(told.length, 1, `${told}`);
      assert.ok(told[0].startsWith('ws4redis: ws://') && told[0].includes(part), `${part} is not in ${told}`);
      assert.ok(!told[0].includes('subscribe-'), 'a query may have a token');
      open.forEach((socket) => socket.close());
    }
  });
}

test('a gateway that answers HTTP alone points to the proxy', async () => {
  upgrades(false);
  gateway.identity = json(IDENTITY);
  connect({ fallback: false });
  await until(() => told.length > 0, 'a line');
  assert.match(told[0], /drop Upgrade/);
});

test('ws: in a page of https: points to the setting of Django', async () => {
  globalThis.WebSocket = class {
    constructor() {
      throw Object.assign(new Error('insecure'), { name: 'SecurityError' });
    }
  };
  connect();
  await until(() => told.length > 0, 'a line');
  assert.match(told[0], /SECURE_PROXY_SSL_HEADER/);
});

test('a connection that was open is not explained when it breaks, nor one that the page closes', async () => {
  upgrades(true);
  gateway.identity = plain(404, '');
  const socket = connect();
  await until(() => socket.state === 'open', 'open');
  upgrades(false);
  sockets.at(-1).ends(1006);
  await until(() => gateway.requests.length > 0, 'the next attempt');
  upgrades(false);
  connect({ fallback: false }).close();
  await new Promise((resolve) => setImmediate(resolve));
  assert.deepEqual(told, []);
});

test('in development a socket has the identity, and the gateway’s advice is told once', async () => {
  upgrades(true);
  gateway.identity = json(IDENTITY);
  const socket = connect({ token: () => 'TOKEN' });
  assert.equal(socket.identity, null);
  await until(() => socket.identity, 'the identity');
  assert.deepEqual(socket.identity, IDENTITY);
  assert.deepEqual(told, ['ws4redis: flags not granted: user']);
  assert.deepEqual(gateway.questions, ['/ws/foobar?subscribe-broadcast&subscribe-user&client=ws4redis']);
  sockets.at(-1).ends(1006);
  await until(() => sockets.length > 1 && socket.state === 'open', 'open again');
  assert.deepEqual([gateway.questions.length, told.length], [1, 1]);
});

test('gateways on other hosts are not asked, and old gateways leave no identity', async () => {
  upgrades(true);
  const requests = [];
  globalThis.fetch = async (url) => requests.push(url);
  const remote = connect({}, 'https://www.example.test');
  await until(() => remote.state === 'open', 'open');
  upgrades(false);
  open.push(new WS4Redis({ uri: 'wss://www.example.test/ws/x' }));
  await until(() => sockets.length > 1, 'a refused attempt');
  await new Promise((resolve) => setTimeout(resolve, 20));
  assert.deepEqual([requests, told, remote.identity], [[], [], null]);
  globalThis.fetch = realFetch;
  upgrades(true);
  gateway.identity = plain(400, 'no upgrade\n');
  const old = connect();
  await until(() => gateway.questions.length === 1, 'the question');
  await new Promise((resolve) => setTimeout(resolve, 20));
  assert.deepEqual([old.state, old.identity, told], ['open', null, []]);
});
