// Keeps one connection: opens it, detects its death, reconnects. Both APIs use it.
import { isRemote } from './address';
import { delayOf } from './backoff';
import { type Ending, SESSION_ENDED, isFinal, lost } from './codes';
import { explain } from './diagnosis';
import type { ws4redis } from './types';

const TICK_MS = 5000;
const MISSED_MAX = 3;
/** Connections that were open for so long reset the backoff and the memory of an ended session. */
const STABLE_MS = 60000;
/** Browsers run timers of hidden tabs once a minute; a later tick means that the machine has slept. */
const JUMP_MS = 90000;

/** A WebSocket, or what behaves like one. */
export interface Transport {
  transport?: 'websocket' | 'sse';
  /** The token of the attempt. */
  bearer?: string | null;
  readyState: number;
  send(data: ws4redis.Sendable): void | Promise<void>;
  close(): void;
  onopen(): void;
  onmessage(event: { data: ws4redis.Data }): void;
  onclose(event: Ending): void;
  /** Bytes have arrived that are no message. */
  onalive(): void;
}

/** One attempt of the modern API, which may switch from a stream to a WebSocket while it is open. */
export interface Attempt extends Transport {
  transport: 'websocket' | 'sse';
}

interface Events {
  connecting(): void;
  open(): void;
  message(data: ws4redis.Data): void;
  close(event: Ending, stopped: boolean, delay: number): void;
  /** After `close`, if another attempt follows. */
  retry?(delay: number, attempt: number): void;
}

export interface Rules {
  url: string;
  open(): Transport;
  heartbeat: string | null | undefined;
  /** The rules that upstream's client does not have. */
  modern?: boolean;
  /** Each attempt asks for another token. */
  renewable?: boolean;
  /** Milliseconds between two heartbeats. */
  every?: number;
}

/** Keeps one connection at a time, until `close()` or an ending after which reconnecting cannot help. */
export function createReconnector(
  { url, open, heartbeat, modern, renewable, every = TICK_MS }: Rules,
  on: Events,
) {
  let socket: Transport;
  let openedAt = 0;
  let waiting = false;
  let stopped = false;
  let attempt = 1;
  let retryTimer: number | undefined;
  let notBefore = 0;
  let tickTimer: number | undefined;
  let tickedAt: number;
  let missed: number;
  let sessionEnded = false;
  let lastChance = false;
  let isExplained = false;
  /** The host is another machine, so the browser may know whether the network reaches it. */
  let remote = modern && isRemote(url);

  function connect() {
    clearTimeout(retryTimer);
    waiting = false;
    on.connecting();
    if (stopped) return;
    socket = open();
    socket.onopen = onOpen;
    socket.onmessage = onMessage;
    socket.onclose = onClose;
    socket.onalive = () => (missed = 0);
  }

  function seemsOffline() {
    return remote && globalThis.navigator?.onLine === false;
  }

  function onOpen() {
    // With some VPNs browsers report no network all the time.
    if (seemsOffline()) remote = false;
    openedAt = Date.now();
    isExplained = true;
    lastChance = false;
    if (!modern) attempt = 1;
    startTicking();
    on.open();
  }

  function onMessage({ data }: { data: ws4redis.Data }) {
    const isHeartbeat = heartbeat && data === heartbeat;
    if (isHeartbeat || modern) missed = 0;
    if (!isHeartbeat) on.message(data);
  }

  function onClose(event: Ending) {
    clearInterval(tickTimer);
    if (openedAt && Date.now() - openedAt >= STABLE_MS) {
      attempt = 1;
      sessionEnded = false;
    }
    openedAt = 0;
    if (!isExplained && !stopped) explain(url, event, socket.bearer);
    isExplained = true;
    let delay = 0;
    // The timer is set before the callbacks run, since one of them may call close().
    if (!stopped && takesAnotherAttempt(event)) {
      const offline = seemsOffline();
      waiting = true;
      delay = delayOf(attempt, event, modern, offline);
      notBefore = Date.now() + (event.retryAfter || 0);
      retryTimer = setTimeout(connect, delay);
      if (!offline) attempt += 1;
    } else {
      stopped = true;
    }
    on.close(event, stopped, delay);
    if (!stopped) on.retry?.(delay, attempt - 1);
  }

  function takesAnotherAttempt({ code, inconclusive, useless }: Ending) {
    if (useless) return false;
    if (code === SESSION_ENDED && (renewable || !sessionEnded)) return (sessionEnded = lastChance = true);
    // Browsers report a refused visitor as 1006, too: the attempt after 4401 has to open.
    return (!lastChance || inconclusive) && !isFinal(code);
  }

  function startTicking() {
    clearInterval(tickTimer);
    missed = 0;
    tickedAt = Date.now();
    if (heartbeat || modern) tickTimer = setInterval(tick, every);
  }

  function tick() {
    const since = Date.now() - tickedAt;
    tickedAt += since;
    if (modern && since > JUMP_MS) check(true);
    else if (heartbeat) beat();
  }

  function beat() {
    missed += 1;
    if (missed > MISSED_MAX) drop('no heartbeat');
    else if (socket.transport !== 'sse') socket.send(heartbeat!);
  }

  function drop(reason: string) {
    clearInterval(tickTimer);
    socket.close();
    // Browsers wait long for the peer's close frame.
    if (modern) onClose(lost(reason));
  }

  /** Call it when the tab is shown, or, with `away`, when the network or the machine has been away. */
  function check(away?: boolean) {
    if (stopped) return;
    if (waiting) {
      if (Date.now() >= notBefore) connect();
    } else if (openedAt && heartbeat) {
      // The answer has to arrive before the next tick.
      startTicking();
      missed = MISSED_MAX - 1;
      beat();
    } else if (openedAt && away) {
      drop('the network was away');
      if (waiting) connect();
    }
  }

  function close() {
    stopped = true;
    waiting = false;
    clearTimeout(retryTimer);
    clearInterval(tickTimer);
    socket?.close();
  }

  return { connect, check, online: () => check(remote), close };
}
