// Checked by tsc, never run: valid uses of the classic script in a page.
/// <reference path="./node_modules/ws4redis/ws4redis.d.ts" />

declare const jQuery: unknown;

const old: WS4Redis = new WS4Redis(
  {
    uri: 'wss://example.test/ws/foobar?subscribe-broadcast',
    connecting: () => console.log('connecting'),
    connected: () => old.send_message('Hello'),
    disconnected: (event) => console.log(event.code, event.wasClean),
    receive_message: (message) => console.log(typeof message === 'string' ? message.trim() : message.byteLength),
    reconnecting: (delay, attempt) => console.log(delay.toFixed(), attempt.toFixed()),
    heartbeat_msg: null,
  },
  jQuery,
);
const plain: WS4Redis = WS4Redis({ uri: 'wss://example.test/ws/foobar' } satisfies WS4Redis.Options);
const states: boolean[] = [plain.is_connecting(), plain.is_connected(), plain.is_closing(), plain.is_closed()];
console.log(states, plain.get_state() === 1);
// @ts-expect-error: there is no such callback
new WS4Redis({ uri: 'wss://example.test/ws/foobar', on_message: () => {} });

const options: ws4redis.Options = { subscribe: 'broadcast' };
const socket: ws4redis.Socket = WS4Redis.connect('/ws/foobar', options);
// The name is the page's own.
var ws4redis = { rooms: [socket.url] };
console.log(ws4redis.rooms.length);
socket.addEventListener('message', ({ data }) => console.log(data));
plain.close();
const news: ws4redis.Subscription = WS4Redis.page('/ws/').subscribe('news');
news.addEventListener('gap', () => news.unsubscribe());
