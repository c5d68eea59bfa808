// The page API of static/ws4redis.js: one socket with several facilities, resume, and servers without the protocol.
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { browser, clock, last, settle, sockets, watch } from './fakes.mjs';

browser();

const connect = (options) => WS4Redis.page('/ws/', { fallback: false, ...options });
/** What the page has sent on the latest socket, without heartbeats. */
const sent = () =>
  last()
    .sent.map((text) => JSON.parse(text))
    .filter(({ t }) => t !== 'hb');
const says = (object) => last().delivers(JSON.stringify(object));
const greets = (user = null) => {
  last().opens('ws4redis.2');
  says({ t: 'hello', c: 'c-1', user, v: 2 });
};
const opened = (options) => {
  const page = connect(options);
  greets();
  return page;
};
const grants = (f, fields) => says({ t: 'sub', f, ok: ['broadcast'], no: [], ...fields });
const message = (f, d, fields) => says({ t: 'msg', f, a: 'broadcast', d, ...fields });
/** Records the events of a subscription. */
const record = (subscription) => {
  const seen = [];
  for (const type of ['subscribed', 'refused', 'gap', 'here', 'join', 'leave', 'close', 'message']) {
    subscription.addEventListener(type, ({ data }) => seen.push(type === 'message' ? data : `+${type}`));
  }
  return seen;
};

// ---- The socket

test('the address names no facility, and the protocol comes first', () => {
  location.href = 'https://example.test/app/';
  const page = WS4Redis.page('/ws/');
  assert.equal(last().uri, 'wss://example.test/ws/');
  assert.equal(page.url, 'wss://example.test/ws/');
  assert.deepEqual(last().protocols, ['ws4redis.2', 'ws4redis']);
  assert.throws(() => WS4Redis.page('/ws/chat'), /ends with \//);
  assert.throws(() => WS4Redis.page('mailto:a'), SyntaxError);
});

test('a token is offered as a subprotocol, a new one for each attempt', async () => {
  let serial = 0;
  connect({ token: () => `t${(serial += 1)}` });
  await settle();
  assert.deepEqual(last().protocols, ['ws4redis.2', 'ws4redis', 'bearer.t1']);
  last().ends();
  clock.tick(1000);
  await settle();
  assert.deepEqual(last().protocols, ['ws4redis.2', 'ws4redis', 'bearer.t2']);
});

test('the page is open once the gateway has greeted', () => {
  const page = connect();
  const seen = watch(page);
  last().opens('ws4redis.2');
  assert.equal(page.state, 'connecting');
  says({ t: 'hello', c: 'c-7', user: 'john', v: 2 });
  assert.deepEqual([page.state, page.id, page.user], ['open', 'c-7', 'john']);
  assert.deepEqual(seen, ['open', '+open']);
  const users = [];
  page.addEventListener('user', ({ user }) => users.push(user));
  says({ t: 'user', user: null });
  assert.deepEqual([users, page.user], [[null], null]);
});

test('it reconnects, stops after a refusal, and close leaves no timer', () => {
  const page = opened();
  const seen = watch(page);
  last().ends(1012);
  clock.tick(10_000);
  greets();
  last().ends(4403, 'forbidden');
  assert.deepEqual(seen, ['waiting', ['close', 1012], 'connecting', 'open', '+open', 'closed', ['close', 4403, 'final']]);
  assert.equal(clock.size, 0);
  const other = opened();
  other.close();
  assert.deepEqual([other.state, clock.size], ['closed', 0]);
  assert.throws(() => other.subscribe('x'), { name: 'InvalidStateError' });
});

test('a signal closes it', () => {
  const controller = new AbortController();
  const page = opened({ signal: controller.signal });
  const chat = record(page.subscribe('chat'));
  controller.abort();
  assert.deepEqual([page.state, chat, clock.size], ['closed', ['+close'], 0]);
  assert.equal(WS4Redis.page('/ws/', { signal: AbortSignal.abort() }).state, 'closed');
});

test('a gateway that no longer answers heartbeats is left', () => {
  const page = opened();
  for (let beat = 0; beat < 3; beat += 1) {
    clock.tick(20_000);
    says({ t: 'hb' });
  }
  assert.equal(last().sent.filter((text) => text === '{"t":"hb"}').length, 3);
  clock.tick(80_000);
  assert.notEqual(page.state, 'open');
});

// ---- Subscriptions

test('a subscription is asked for with its flags, before or after the greeting', () => {
  const page = connect();
  page.subscribe('chat-5', { subscribe: ['broadcast', 'user'], publish: 'user', presence: true, last: 20 });
  greets();
  page.subscribe('news');
  page.subscribe('box', { subscribe: [], publish: 'user', since: { user: '1-0' }, echo: true });
  assert.deepEqual(sent(), [
    {
      t: 'sub',
      f: 'chat-5',
      flags: ['subscribe-broadcast', 'subscribe-user', 'publish-user', 'presence'],
      last: 20,
    },
    { t: 'sub', f: 'news', flags: ['subscribe-broadcast'] },
    { t: 'sub', f: 'box', flags: ['publish-user', 'echo'], since: { user: '1-0' } },
  ]);
  assert.throws(() => page.subscribe('x', { subscribe: 'users' }), /no audience users/);
});

test('what the gateway says about a facility becomes events of its subscription', () => {
  const page = opened();
  const chat = page.subscribe('chat');
  const other = record(page.subscribe('other'));
  const seen = record(chat);
  const details = [];
  chat.addEventListener('message', ({ audience, id, last }) => details.push([audience, id, last]));
  grants('chat', { ok: ['broadcast', 'presence'], no: ['group'] });
  assert.deepEqual([chat.state, chat.granted, chat.refused], ['subscribed', ['broadcast', 'presence'], ['group']]);
  message('chat', 'kept', { last: true });
  message('chat', '{"a":1}', { id: '5-0' });
  says({ t: 'msg', f: 'chat', a: 'group:staff', b: '/wA=' });
  says({ t: 'here', f: 'chat', users: ['ann'], anonymous: 3 });
  says({ t: 'join', f: 'chat', u: 'bob' });
  says({ t: 'leave', f: 'chat', u: 'ann' });
  says({ t: 'gap', f: 'chat' });
  assert.deepEqual([chat.users, chat.anonymous], [['bob'], 3]);
  says({ t: 'here', f: 'chat', anonymous: 4 });
  assert.deepEqual([chat.users, chat.anonymous], [['bob'], 4]);
  const binary = seen.splice(3, 1)[0];
  assert.deepEqual([...new Uint8Array(binary)], [255, 0]);
  assert.deepEqual(seen, ['+subscribed', 'kept', '{"a":1}', '+here', '+join', '+leave', '+gap', '+here']);
  assert.deepEqual(details, [
    ['broadcast', undefined, true],
    ['broadcast', '5-0', false],
    ['group:staff', undefined, false],
  ]);
  assert.deepEqual(other, []);
});

test('a refused subscription says why', () => {
  const page = opened();
  const chat = page.subscribe('chat');
  const reasons = [];
  chat.addEventListener('refused', ({ code, reason }) => reasons.push([code, reason]));
  says({ t: 'err', f: 'chat', code: 403, why: 'nothing is granted' });
  assert.deepEqual([chat.state, reasons], ['refused', [[403, 'nothing is granted']]]);
  says({ t: 'later', f: 'chat' });
  says({ t: 'msg', f: 'unknown', a: 'broadcast', d: 'x' });
});

test('what the gateway cannot serve now is asked for again, with growing waits', () => {
  const page = opened();
  const chat = page.subscribe('chat');
  const seen = record(chat);
  for (const [code, wait] of [
    [503, 5_500],
    [429, 5_500],
  ]) {
    says({ t: 'err', f: 'chat', code, why: 'later' });
    assert.equal(chat.state, 'waiting');
    const before = sent().length;
    clock.tick(wait - 100);
    assert.equal(sent().length, before);
    clock.tick(200);
    assert.deepEqual(sent().slice(before), [{ t: 'sub', f: 'chat', flags: ['subscribe-broadcast'] }]);
  }
  grants('chat');
  assert.deepEqual(seen, ['+subscribed']);
  says({ t: 'err', f: 'chat', code: 503, why: 'later' });
  page.close();
  assert.equal(clock.size, 0);
});

test('another visitor is asked again, and a token that was accepted lasts', async () => {
  const page = opened();
  const chat = page.subscribe('chat');
  says({ t: 'err', f: 'chat', code: 403, why: 'nothing is granted' });
  const accepted = page.authenticate('good');
  assert.deepEqual(sent().at(-1), { t: 'auth', token: 'good', r: 1 });
  says({ t: 'user', user: 'john' });
  says({ t: 'ok', r: 1 });
  await accepted;
  assert.equal(chat.state, 'waiting');
  assert.deepEqual(sent().at(-1), { t: 'sub', f: 'chat', flags: ['subscribe-broadcast'] });
  const refused = page.authenticate('bad');
  says({ t: 'err', r: 2, code: 401, why: 'expired' });
  await assert.rejects(refused, /401 expired/);
  last().ends(1006);
  clock.tick(10_000);
  greets();
  assert.deepEqual(sent().map(({ t, token }) => token ?? t), ['good', 'sub']);
});

test('after a reconnect each audience continues where it ended', () => {
  const page = opened();
  const chat = page.subscribe('chat', { last: 5 });
  const seen = record(chat);
  grants('chat', { ids: { broadcast: '3-0', user: '2-0' } });
  message('chat', 'one', { id: '4-0' });
  last().ends(1006);
  assert.equal(chat.state, 'waiting');
  clock.tick(10_000);
  greets();
  assert.deepEqual(sent(), [
    { t: 'sub', f: 'chat', flags: ['subscribe-broadcast'], since: { broadcast: '4-0', user: '2-0' } },
  ]);
  grants('chat', { recovered: true });
  message('chat', 'two', { id: '5-0' });
  assert.deepEqual(seen, ['+subscribed', 'one', '+subscribed', 'two']);
  assert.deepEqual(chat.ids, { broadcast: '5-0', user: '2-0' });
});

test('without a history a reconnect is a gap', () => {
  const page = opened();
  const seen = record(page.subscribe('chat'));
  grants('chat');
  last().ends(1012);
  clock.tick(10_000);
  greets();
  grants('chat');
  assert.deepEqual(seen, ['+subscribed', '+subscribed', '+gap']);
  // The gateway itself tells of a history that is too short.
  last().ends(1012);
  clock.tick(20_000);
  greets();
  grants('chat', { recovered: false });
  says({ t: 'gap', f: 'chat' });
  assert.deepEqual(seen.slice(3), ['+subscribed', '+gap']);
});

test('a gap that a lost connection has swallowed is told after the reconnect', () => {
  const page = opened();
  const seen = record(page.subscribe('chat', { since: '1-0' }));
  grants('chat', { recovered: false, ids: { broadcast: '9-0' } });
  last().ends(1006);
  clock.tick(10_000);
  greets();
  grants('chat', { recovered: true });
  assert.deepEqual(seen, ['+subscribed', '+subscribed', '+gap']);
  last().ends(1006);
  clock.tick(20_000);
  greets();
  grants('chat', { recovered: true });
  assert.deepEqual(seen.slice(3), ['+subscribed']);
});

test('another grant on an open connection is no gap', () => {
  const page = opened();
  const chat = page.subscribe('chat', { subscribe: ['broadcast', 'user'] });
  const seen = record(chat);
  grants('chat', { no: ['user'] });
  grants('chat', { ok: ['broadcast', 'user'] });
  assert.deepEqual([seen, chat.granted], [['+subscribed', '+subscribed'], ['broadcast', 'user']]);
});

test('the same subscription is shared, another one of its facility throws, and unsubscribe ends it', () => {
  const page = opened();
  const chat = page.subscribe('chat');
  assert.equal(page.subscribe('chat', { subscribe: 'broadcast' }), chat);
  assert.throws(() => page.subscribe('chat', { subscribe: 'user' }), /other options/);
  const seen = record(chat);
  chat.unsubscribe();
  assert.equal(chat.state, 'waiting');
  chat.unsubscribe();
  chat.unsubscribe();
  message('chat', 'late');
  assert.deepEqual([chat.state, seen], ['closed', ['+close']]);
  assert.deepEqual(sent().at(-1), { t: 'unsub', f: 'chat' });
  assert.notEqual(page.subscribe('chat'), chat);
});

// ---- Publishing

test('send resolves when the gateway says so, and rejects with its reason', async () => {
  const page = opened();
  const chat = page.subscribe('chat', { publish: ['broadcast', 'user'] });
  await assert.rejects(chat.send('early'), { name: 'InvalidStateError' });
  grants('chat');
  const first = chat.send('one');
  const second = chat.sendJSON({ a: 1 }, { to: 'user' });
  const third = chat.send(new Uint8Array([1, 2]));
  assert.deepEqual(sent().slice(1), [
    { t: 'pub', f: 'chat', d: 'one', r: 1 },
    { t: 'pub', f: 'chat', a: ['user'], d: '{"a":1}', r: 2 },
    { t: 'pub', f: 'chat', b: 'AQI=', r: 3 },
  ]);
  says({ t: 'ok', r: 2 });
  says({ t: 'ok', r: 1 });
  says({ t: 'err', r: 3, code: 429, why: 'too fast' });
  await Promise.all([first, second, assert.rejects(third, /429 too fast/)]);
  await assert.rejects(chat.send('x', { to: 'users' }), TypeError);
});

test('what has no answer is rejected, in time or with the connection', async () => {
  const page = opened();
  const chat = page.subscribe('chat', { publish: 'user' });
  grants('chat');
  const late = chat.send('late');
  clock.tick(20_000);
  await assert.rejects(late, /no answer/);
  const cut = chat.send('cut');
  last().ends(1006);
  await assert.rejects(cut, /no answer/);
});

test('the queue keeps messages until the gateway grants the facility', async () => {
  const page = connect({ queue: 2 });
  const chat = page.subscribe('chat', { publish: 'user' });
  const kept = [chat.send('one'), chat.send('two')];
  await assert.rejects(chat.send('three'), { name: 'InvalidStateError' });
  greets();
  grants('chat');
  await settle();
  assert.deepEqual(sent().map(({ d }) => d), [undefined, 'one', 'two']);
  says({ t: 'ok', r: 1 });
  says({ t: 'ok', r: 2 });
  await Promise.all(kept);
  const refused = page.subscribe('secret', { publish: 'user' });
  const lost = refused.send('x');
  says({ t: 'err', f: 'secret', code: 403, why: 'no' });
  await assert.rejects(lost, { name: 'InvalidStateError' });
});

test('messages can be iterated', async () => {
  const page = opened();
  const chat = page.subscribe('chat');
  const read = [];
  const reading = (async () => {
    for await (const value of chat.json()) read.push(value);
  })();
  await settle();
  message('chat', '1');
  message('chat', '[2]');
  await settle();
  chat.unsubscribe();
  await reading;
  assert.deepEqual(read, [1, [2]]);
});

// ---- Servers and networks that have no pages

test('an old server gets a socket per facility', () => {
  for (const recognised of [
    () => last().opens('ws4redis'),
    () => {
      last().opens('ws4redis.2');
      clock.tick(2_000);
    },
    () => {
      last().opens('ws4redis.2');
      last().delivers('a kept message');
    },
  ]) {
    const page = connect({ fallback: true });
    const chat = page.subscribe('chat 5', { subscribe: ['broadcast', 'user'], publish: 'user', presence: true });
    const seen = record(chat);
    const refused = last();
    recognised();
    assert.equal(refused.closeCalls, 1);
    assert.equal(last().uri, 'wss://example.test/ws/chat%205?subscribe-broadcast&subscribe-user&publish-user');
    last().opens();
    last().delivers('Hello');
    assert.deepEqual([page.state, chat.state], ['open', 'subscribed']);
    assert.deepEqual([chat.granted, chat.refused], [['broadcast', 'user', 'publish-user'], ['presence']]);
    page.subscribe('news');
    assert.equal(last().uri, 'wss://example.test/ws/news?subscribe-broadcast');
    assert.deepEqual(seen, ['+subscribed', 'Hello']);
    page.close();
    assert.deepEqual([seen.at(-1), clock.size], ['+close', 0]);
  }
});

test('a socket of an old server publishes and tells of gaps', async () => {
  const page = connect();
  const chat = page.subscribe('chat', { publish: 'broadcast' });
  last().opens('ws4redis');
  last().opens();
  await chat.send('one');
  await assert.rejects(chat.send('two', { to: 'broadcast' }), { name: 'NotSupportedError' });
  assert.deepEqual(last().sent, ['one']);
  const seen = record(chat);
  last().ends(1012);
  clock.tick(10_000);
  last().opens();
  assert.deepEqual(seen, ['+subscribed', '+gap']);
});

test('while WebSockets are refused each facility falls back, and returns when they open', async () => {
  const page = connect({ fallback: true });
  const seen = record(page.subscribe('chat'));
  for (const wait of [1000, 3000, 0]) {
    last().ends(1006);
    clock.tick(wait);
  }
  const plain = last();
  assert.equal(plain.uri, 'wss://example.test/ws/chat?subscribe-broadcast');
  plain.opens();
  assert.equal(plain.closeCalls, 1);
  assert.equal(last().uri, 'wss://example.test/ws/');
  greets();
  grants('chat');
  assert.deepEqual([page.state, seen], ['open', ['+subscribed']]);
  assert.equal(sockets.filter(({ readyState }) => readyState === 1).length, 1);
});
