// One attempt to connect: asks for the token, opens the WebSocket, falls back to a stream, and returns from there.
import { type Unmatched, switchToWebSocket } from './changeover';
import { type Ending, failed, lost } from './codes';
import type { Attempt, Transport } from './connection';
import { createDuplicateFilter } from './duplicates';
import { fingerprint } from './payload';
import { ATTEMPT_MS, openStream } from './sse';
import type { ws4redis } from './types';
import { discard, openWebSocket } from './websocket';

/** WebSockets refused in a row, while streams are answered, before the fallback replaces WebSockets. */
export const REFUSALS = 3;
/** Bounds the memory of what the stream has delivered. */
const RECENT_MAX = 1000;

/** What attempts of one connection know of earlier ones. */
export interface History {
  refusals: number;
}

/** Behaves as a WebSocket. Emits nothing after it was closed. */
export function openTransport(
  url: string,
  token: ws4redis.Options['token'],
  fallback: boolean,
  history: History,
  switched: () => void,
): Attempt {
  let inner: Transport | undefined;
  let opened = false;
  let done = false;
  let stopSwitching: (() => void) | undefined;
  const duplicates = createDuplicateFilter();
  const self = {
    transport: 'websocket',
    get readyState() {
      return inner!.readyState;
    },
    send: (data) => inner!.send(data),
    close() {
      done = true;
      clearTimeout(patience);
      stopSwitching?.();
      inner?.close();
    },
  } as Attempt;

  function end(event: Ending) {
    if (done) return;
    self.close();
    self.onclose(event);
  }

  function receive(event: { data: ws4redis.Data }) {
    if (!done && !duplicates.takeMatch(event.data)) self.onmessage(event);
  }

  function use(transport: Transport, onopen: () => void) {
    inner = transport;
    inner.onopen = () => {
      if (done) return;
      opened = true;
      clearTimeout(patience);
      onopen();
    };
    inner.onmessage = receive;
    inner.onalive = () => done || self.onalive();
    inner.onclose = end;
  }

  function dial(answer?: string | null) {
    self.bearer = answer;
    // Browsers want one of the subprotocols to be answered, and tokens never are.
    return openWebSocket(url, answer ? ['ws4redis', `bearer.${answer}`] : []);
  }

  function dialFirst(answer?: string | null) {
    use(dial(answer), () => {
      history.refusals = 0;
      self.onopen();
    });
    inner!.onclose = refused;
  }

  function refused(event: Ending) {
    if (done || opened || !fallback || event.code !== 1006 || event.useless) return end(event);
    discard(inner!);
    self.transport = 'sse';
    const recent: string[] = [];
    const stream = openStream(url.replace('ws', 'http'), self.bearer, duplicates);
    use(stream, () => {
      if ((history.refusals += 1) < REFUSALS) return end(lost('the WebSocket was refused'));
      stopSwitching = switchToWebSocket(stream, recent, askToken, dial, history, adopt, end);
      self.onopen();
    });
    stream.onmessage = (event) => {
      recent.push(fingerprint(event.data));
      if (recent.length > RECENT_MAX) recent.shift();
      receive(event);
    };
  }

  /** Takes a WebSocket for the stream: `late` is what only it has delivered so far, `early` what only the stream has. */
  function adopt(socket: Transport, late: Unmatched[], early: Unmatched[]) {
    stopSwitching = undefined;
    discard(inner!);
    early.forEach(({ key }) => duplicates.expect(key));
    self.transport = 'websocket';
    use(socket, () => {});
    self.onalive();
    switched();
    late.forEach(receive);
  }

  const askToken = async () => token && token();
  let patience = setTimeout(() => {
    patience = setTimeout(() => end(lost('no answer')), ATTEMPT_MS / 2);
    // Some proxies leave the handshake unanswered.
    if (fallback && inner && self.transport === 'websocket') refused(lost('no answer'));
  }, ATTEMPT_MS / 2);
  if (token) {
    askToken()
      .then((answer) => done || dialFirst(answer))
      .catch((error) => end(failed(error, 'token: ')));
  } else {
    dialFirst();
  }
  return self;
}
