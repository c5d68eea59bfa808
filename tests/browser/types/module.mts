// Checked by tsc, never run: valid and invalid uses of the module.
import fallback, { WS4Redis, connect, ws4redis } from 'ws4redis';
import type { Message, Options, Page, PageMessage, PageOptions, Socket, State, Subscription, ws4redis as Types } from 'ws4redis';
import type { Audience, SubscribeOptions } from 'ws4redis';

const controller = new AbortController();
const options: Types.Options = {
  subscribe: ['broadcast', 'user'],
  publish: 'user',
  echo: true,
  token: async () => (await fetch('/token')).text(),
  heartbeat: null,
  queue: 100,
  fallback: false,
  signal: controller.signal,
};
const audiences = ['group'] as const;
const socket: Types.Socket = ws4redis('/ws/foobar', options);
const other = fallback(new URL('https://example.test/ws/x'), { subscribe: audiences, token: () => null });

socket.addEventListener('message', (event) => {
  const data: string | ArrayBuffer = event.data;
  const { unread } = event.json<{ unread: number }>();
  console.log(data, unread.toFixed());
  // @ts-expect-error: the type of the JSON is unknown
  event.json().unread;
});
socket.addEventListener('state', ({ state, delay = 0 }) => {
  if (state === 'session-ended' || state === 'closed') console.log(delay.toFixed());
  // @ts-expect-error: there is no such state
  if (state === 'broken') return;
});
socket.addEventListener('close', ({ code, reason, wasClean, final }) => {
  console.log(code.toFixed(), reason.trim(), wasClean || final);
});
socket.addEventListener('gap', function () {
  const { state }: { state: Types.State } = this;
  console.log(state);
}, { once: true });
socket.addEventListener('transport', () => console.log(socket.transport === 'websocket'));
socket.addEventListener('of the page', () => {});

async function use(): Promise<void> {
  await socket.send('text');
  await socket.send(new Uint8Array(1));
  await socket.send(new Blob());
  await socket.sendJSON({ a: 1 });
  for await (const message of socket) console.log(typeof message === 'string' ? message.trim() : message.byteLength);
  for await (const { n } of other.json<{ n: number }>()) console.log(n.toFixed());
  const transport: 'websocket' | 'sse' | null = socket.transport;
  console.log(transport, socket.url.length);
  // @ts-expect-error: objects are for sendJSON
  await socket.send({ a: 1 });
  // @ts-expect-error: only the client sets the state
  socket.state = 'open';
  socket.close();
}

// @ts-expect-error: there is no such audience
ws4redis('/ws/foobar', { subscribe: ['users'] });
// @ts-expect-error: there is no such option
ws4redis('/ws/foobar', { subscribes: ['user'] });
// @ts-expect-error: upstream's interface needs its address
new WS4Redis({});
console.log(use, WS4Redis.connect === ws4redis, new WS4Redis({ uri: 'wss://example.test/ws/x' }) instanceof WS4Redis);

const page: Types.Page = connect('/ws/', { token: async () => null, queue: 5 });
const chat: Types.Subscription = page.subscribe('chat-5', { publish: 'user', presence: true, last: 20 });
chat.addEventListener('message', ({ data, audience = '', id, last }) => console.log(data, audience.trim(), id ?? last));
chat.addEventListener('join', ({ user }) => console.log(user.trim(), chat.users.length, chat.anonymous.toFixed()));
chat.addEventListener('subscribed', ({ granted, recovered }) => console.log(granted.join(), recovered === true));
chat.addEventListener('refused', ({ code, reason }) => console.log(code.toFixed(), reason.trim()));
page.addEventListener('user', ({ user }) => console.log(user?.trim(), page.id?.trim()));
// @ts-expect-error: a page has no messages of its own
page.send('text');

async function publish(): Promise<void> {
  await chat.send('text', { to: ['user'] });
  await chat.sendJSON({ a: 1 });
  for await (const { n } of chat.json<{ n: number }>()) console.log(n.toFixed());
  await page.authenticate('token');
  chat.unsubscribe();
  // @ts-expect-error: there is no such audience
  await chat.send('text', { to: 'users' });
}
console.log(publish, fallback.connect === connect, WS4Redis.page === connect);

// As components and composables name them.
const named: Options & { subscribe: Audience[] } = { subscribe: ['user'] };
const open: Socket = ws4redis('/ws/foobar', named);
const state: State = open.state;
const pages: PageOptions = { queue: 1 };
const shown: Page = connect('/ws/', pages);
const wanted: SubscribeOptions = { last: 5 };
const one: Subscription = shown.subscribe('news', wanted);
open.addEventListener('message', (message: Message) => message.json());
one.addEventListener('message', ({ audience }: PageMessage) => console.log(audience, state));
