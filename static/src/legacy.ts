// The legacy API: the interface of django-websocket-redis.
import { createReconnector } from './connection';
import type { Transport } from './connection';
import type { WS4Redis as Public } from './types';
import { openWebSocket } from './websocket';

type Callback = 'connecting' | 'connected' | 'disconnected' | 'receive_message' | 'reconnecting';

export const WS4Redis = function (this: unknown, given: Public.Options): Public {
  if (!(this instanceof WS4Redis)) return new WS4Redis(given);
  if (!given?.uri) throw new Error('WS4Redis: options.uri is missing');

  // Later changes to the page's object have no effect.
  const options = { ...given };
  const call = (name: Callback, ...args: unknown[]) => {
    try {
      const callback: ((...args: any[]) => void) | undefined = options[name];
      if (typeof callback === 'function') callback.apply(options, args);
    } catch (error) {
      report(error);
    }
  };
  let socket: Transport;
  const reconnector = createReconnector(
    { url: options.uri, open: () => (socket = openWebSocket(options.uri)), heartbeat: options.heartbeat_msg },
    {
      connecting: () => call('connecting'),
      open: () => call('connected'),
      message: (data) => call('receive_message', data),
      close(event) {
        if (event.error) report(event.error);
        call('disconnected', event);
      },
      retry: (delay, attempt) => call('reconnecting', delay, attempt),
    },
  );
  const is = (state: number) => () => socket.readyState === state;

  Object.assign(this, {
    send_message: (message: string) => socket.send(message),
    get_state: () => socket.readyState,
    is_connecting: is(0),
    is_connected: is(1),
    is_closing: is(2),
    is_closed: is(3),
    close: reconnector.close,
  });
  reconnector.connect();
  return this;
} as unknown as Public.Constructor;

/** Reports an error as an uncaught one, so that the page's own error reporting sees it. */
function report(error: unknown): void {
  queueMicrotask(() => {
    throw error;
  });
}
