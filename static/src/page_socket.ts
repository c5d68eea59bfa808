// One attempt to open a WebSocket of the protocol ws4redis.2.
import { type Ending, failed, lost } from './codes';
import type { Transport } from './connection';
import { ATTEMPT_MS } from './sse';
import type { ws4redis } from './types';
import { openWebSocket } from './websocket';

/** Servers that only repeat the subprotocol do not greet. */
const HELLO_MS = 2000;

/** Behaves as a WebSocket that is open once the gateway has greeted. Calls `old` if the server does not know the protocol. */
export function openPageSocket(url: string, token: ws4redis.Options['token'], old: () => void): Transport {
  let inner: Transport | undefined;
  let greeted = false;
  let done = false;
  const self = {
    get readyState() {
      return greeted ? inner!.readyState : 0;
    },
    send: (data) => inner!.send(data),
    close() {
      if (done) return;
      done = true;
      clearTimeout(timer);
      inner?.close();
    },
  } as Transport;

  function end(event: Ending) {
    if (done) return;
    self.close();
    self.onclose(event);
  }

  function isOld() {
    if (done) return;
    self.close();
    old();
  }

  function dial(answer?: string | null) {
    self.bearer = answer;
    // The second name is for gateways that do not know the first one.
    const protocols = ['ws4redis.2', 'ws4redis', ...(answer ? [`bearer.${answer}`] : [])];
    const socket = (inner = openWebSocket(url, protocols) as Transport & { protocol?: string });
    socket.onopen = () => {
      if (socket.protocol !== 'ws4redis.2') return isOld();
      clearTimeout(timer);
      timer = setTimeout(isOld, HELLO_MS);
    };
    socket.onmessage = (event) => {
      if (done) return;
      if (!greeted) {
        if (!/^\{"t":"hello"/.test(event.data as string)) return isOld();
        greeted = true;
        clearTimeout(timer);
        self.onopen();
      }
      if (!done) self.onmessage(event);
    };
    socket.onclose = end;
  }

  let timer = setTimeout(() => end(lost('no answer')), ATTEMPT_MS);
  if (token) {
    (async () => token())().then(
      (answer) => done || dial(answer),
      (error) => end(failed(error, 'token: ')),
    );
  } else {
    dial();
  }
  return self;
}
