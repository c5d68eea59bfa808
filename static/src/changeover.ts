// Returns from a stream to a WebSocket without a gap, a duplicate or a change of order.
import { type Ending, lost } from './codes';
import type { Transport } from './connection';
import { fingerprint } from './payload';
import { ATTEMPT_MS, type Stream } from './sse';
import type { History } from './transport';
import type { ws4redis } from './types';
import { discard } from './websocket';

const FIRST_MS = 15000;
const WAIT_MAX_MS = 300000;
const QUIET_MS = 1000;
const BUSY_MS = 10000;
const OVERLAP_MAX_MS = 60000;
const UNMATCHED_MAX = 10000;

export interface Unmatched {
  key: string;
  data: ws4redis.Data;
}

/**
 * Tries a WebSocket while the stream is in use, with growing waits. Both deliver the same messages in the same order, so
 * what one of them has not delivered yet is `late` (only the WebSocket has) or `early` (only the stream has). Switches in
 * a quiet moment, or, if there is none, at a message that both have delivered. Returns a function that stops it.
 */
export function switchToWebSocket(
  stream: Stream,
  recent: string[],
  askToken: () => Promise<string | null | undefined>,
  dial: (answer: string | null | undefined) => Transport,
  history: History,
  adopt: (socket: Transport, late: Unmatched[], early: Unmatched[]) => void,
  fail: (event: Ending) => void,
): () => void {
  const fromStream = stream.onmessage;
  let stop: () => void;

  function probe(wait: number) {
    let timer = setTimeout(start, wait * (0.5 + Math.random() / 2));
    let socket: Transport | undefined;
    let openedAt: number;
    let over = false;
    let late: Unmatched[] = [];
    const early: Unmatched[] = [];
    stop = () => {
      over = true;
      clearTimeout(timer);
      stream.onmessage = fromStream;
      if (socket) discard(socket);
    };

    function giveUp() {
      if (over) return;
      stop();
      probe(Math.min(2 * wait, WAIT_MAX_MS));
    }

    function start() {
      timer = setTimeout(giveUp, ATTEMPT_MS);
      askToken().then(tryWith, giveUp);
    }

    function tryWith(answer: string | null | undefined) {
      if (over) return;
      socket = dial(answer);
      socket.onclose = giveUp;
      socket.onopen = () => {
        history.refusals = 0;
        openedAt = Date.now();
        stream.onmessage = (event) => {
          fromStream(event);
          match(event, early, late);
        };
        compare();
      };
      socket.onmessage = (event) => match(event, late, early);
    }

    /** What one side delivers is either new, or everything up to it is even on both. */
    function match({ data }: { data: ws4redis.Data }, own: Unmatched[], other: Unmatched[]) {
      const key = fingerprint(data);
      const at = other.findIndex((entry) => entry.key === key);
      if (at < 0) own.push({ key, data });
      else {
        own.length = 0;
        other.splice(0, at + 1);
      }
      compare(at >= 0);
    }

    function compare(both?: boolean) {
      if (over) return;
      clearTimeout(timer);
      const lasted = Date.now() - openedAt;
      if (lasted > OVERLAP_MAX_MS || late.length > UNMATCHED_MAX) return fail(lost('the stream is behind'));
      if (both && lasted > BUSY_MS && !stream.pending) return finish();
      timer = setTimeout(() => {
        early.length = 0;
        // Heartbeats and replayed messages.
        late = late.filter(({ key, data }) => data !== stream.heartbeat && !recent.includes(key));
        if (late.length || stream.pending) compare();
        else finish();
      }, QUIET_MS);
    }

    function finish() {
      over = true;
      adopt(socket!, late, early);
    }
  }

  probe(FIRST_MS);
  return () => stop();
}
