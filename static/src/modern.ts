// The modern API: an EventTarget with async iteration, a queue and an AbortSignal.
import { addressOf, isRemote } from './address';
import { type Ending, SESSION_ENDED } from './codes';
import { type Attempt, createReconnector } from './connection';
import { identify } from './diagnosis';
import { copyOf } from './payload';
import { messageEvent, messagesOf } from './reading';
import { REFUSALS, openTransport } from './transport';
import type { ws4redis } from './types';
import { watchBrowser } from './wake';

interface Kept {
  data: ws4redis.Sendable;
  resolve(sent: Promise<void>): void;
}

export function connect(path: string | URL, options: ws4redis.Options = {}): ws4redis.Socket {
  const { token, heartbeat, fallback = true, queue = 0, signal } = options;
  const url = addressOf(path, options);
  const socket = new EventTarget() as { -readonly [K in keyof ws4redis.Socket]: ws4redis.Socket[K] };
  const ending = new AbortController();
  const kept: Kept[] = [];
  // WebSockets are proven only by one that opens.
  const history = { refusals: REFUSALS };
  let wasOpen = false;
  let current: Attempt;

  const reconnector = createReconnector(
    {
      url,
      open: () => (current = openTransport(url, token, fallback, history, switched)),
      heartbeat,
      modern: true,
      renewable: !!token,
    },
    {
      connecting: () => setState('connecting'),
      open() {
        socket.transport = current.transport;
        socket.state = 'open';
        // Before the page's listeners run, so that what they send comes after what was kept.
        flush();
        setState('open');
        const again = wasOpen;
        wasOpen = true;
        if (isOpen()) emit('open');
        if (isOpen() && again) emit('gap');
        if (!again && !isRemote(url)) identify(url, current.bearer, socket);
      },
      message(data) {
        socket.dispatchEvent(messageEvent(data));
      },
      close(event, stopped, delay) {
        socket.transport = null;
        const state = event.code === SESSION_ENDED ? 'session-ended' : 'waiting';
        if (!stopped || state !== 'waiting') setState(state, delay);
        if (stopped) finish(event);
        // A listener may have closed or reconnected it.
        else if (socket.state === state) emitClose(event, false);
      },
    },
  );

  const isOpen = () => socket.state === 'open';

  function switched() {
    socket.transport = current.transport;
    emit('transport');
  }

  function emit(type: string, fields?: object) {
    socket.dispatchEvent(Object.assign(new Event(type), fields));
  }

  function emitClose({ code, reason, wasClean }: Ending, final: boolean) {
    emit('close', { code, reason, wasClean, final });
  }

  function setState(state: ws4redis.State, delay?: number) {
    socket.state = state;
    emit('state', { state, delay });
  }

  function finish(event: Ending) {
    if (socket.state === 'closed') return;
    ending.abort();
    socket.transport = null;
    setState('closed');
    flush();
    emitClose(event, true);
  }

  /** Sends what was kept, or rejects it if the connection is closed. */
  function flush() {
    for (const { data, resolve } of kept.splice(0)) resolve(send(data));
  }

  async function send(data: ws4redis.Sendable): Promise<void> {
    // Browsers drop what is sent between the peer's close frame and the close event.
    if (isOpen() && current.readyState === 1) return current.send(data);
    if (socket.state === 'closed' || kept.length >= queue) throw new DOMException('there is no connection', 'InvalidStateError');
    const copy = copyOf(data);
    return new Promise((resolve) => kept.push({ data: copy, resolve }));
  }

  function close() {
    reconnector.close();
    finish({ code: 1000, reason: '', wasClean: true });
  }

  const messages = <T>(read: (data: any) => T) => messagesOf(socket, () => socket.state === 'closed', read);

  Object.assign(socket, {
    url,
    state: 'waiting',
    transport: null,
    identity: null,
    send,
    sendJSON: (value: unknown) => send(JSON.stringify(value)),
    json: () => messages(JSON.parse),
    [Symbol.asyncIterator]: () => messages((data) => data),
    close,
  });
  if (signal?.aborted) {
    close();
    return socket;
  }
  reconnector.connect();
  signal?.addEventListener('abort', close, { signal: ending.signal });
  watchBrowser(() => reconnector, ending);
  return socket;
}
