// The fallback: server-sent events to receive, POST to send. EventSource would hide the status, and cannot set headers.
import { receivesOwn } from './address';
import { type Ending, TRY_AGAIN, failed, lost } from './codes';
import type { Transport } from './connection';
import { type DuplicateFilter, ECHO_MS, type Expected } from './duplicates';
import { createEventParser } from './event_stream';
import { bytesOf, copyOf, fingerprint } from './payload';
import { marked, request } from './request';
import type { ws4redis } from './types';

/** For the answer to a POST; also for the token, the WebSocket and the fallback of an attempt together. */
export const ATTEMPT_MS = 20000;
const RETRY_AFTER_MAX_MS = 3600000;

export interface Stream extends Transport {
  /** POSTs that have not been answered. */
  pending: number;
  /** The gateway's heartbeat text, once it has announced it. */
  heartbeat?: string;
}

export function openStream(url: string, bearer: string | null | undefined, duplicates: DuplicateFilter): Stream {
  const reading = new AbortController();
  const suppressesEcho = receivesOwn(url);
  let posts: Promise<unknown> = Promise.resolve();
  let posting = new AbortController();
  const self = {
    readyState: 0,
    pending: 0,
    close: () => reading.abort(),
    send(data: ws4redis.Sendable) {
      const body = copyOf(data);
      const batch = posting;
      // One after the other; when one gets no answer, those behind it fail with it.
      const sent = posts.then(() => post(body, batch));
      self.pending += 1;
      posts = sent.catch(() => {}).then(() => (self.pending -= 1));
      return sent;
    },
  } as Stream;

  async function post(body: string | Blob | ArrayBuffer, batch: AbortController) {
    const { signal } = batch;
    const isText = typeof body === 'string';
    let echo: Expected | undefined;
    if (isText && suppressesEcho && !signal.aborted) echo = duplicates.expect(fingerprint(body), ATTEMPT_MS + ECHO_MS);
    const timer = setTimeout(() => {
      posting = new AbortController();
      batch.abort(new Error('message not accepted: no answer'));
    }, ATTEMPT_MS);
    try {
      const { ok, status } = await request(url, bearer, {
        method: 'POST',
        headers: {
          'Content-Type': isText ? 'text/plain;charset=utf-8' : 'application/octet-stream',
          'X-WS4Redis': '1',
        },
        body,
        signal,
      });
      // The message may come back before the answer or after it.
      if (echo) echo.until = ok ? Date.now() + ECHO_MS : 0;
      if (!ok) throw new Error(`message not accepted: HTTP ${status}`);
    } finally {
      clearTimeout(timer);
    }
  }

  async function read() {
    const response = await request(marked(url), bearer, {
      headers: { Accept: 'text/event-stream' },
      signal: reading.signal,
    });
    const type = response.headers.get('Content-Type') || '';
    if (response.status !== 200 || !type.startsWith('text/event-stream')) {
      return refusal(response, type.startsWith('text/plain') ? await response.text() : '');
    }
    self.readyState = 1;
    self.onopen();
    let ending = lost('the stream has ended');
    const parse = createEventParser((kind, data) => {
      if (kind === '') self.onmessage({ data });
      else if (kind === 'binary') self.onmessage({ data: bytesOf(data) });
      else if (kind === 'heartbeat') self.heartbeat = data;
      else if (kind === 'close') ending = { wasClean: true, ...JSON.parse(data) };
    });
    const decoder = new TextDecoder();
    const reader = response.body!.getReader();
    for (;;) {
      const { done, value } = await reader.read();
      if (done) return ending;
      self.onalive();
      parse(decoder.decode(value, { stream: true }));
    }
  }

  read()
    .catch((error) => failed(error))
    .then((event) => {
      self.readyState = 3;
      self.onclose(event);
    });
  return self;
}

/** Translates an answer that is no stream to the close code that a WebSocket would have got. */
function refusal({ status, headers }: Response, text: string): Ending {
  const ending = lost(`HTTP ${status} ${text}`.trim());
  ending.inconclusive = status >= 500;
  if (status === 403) ending.code = 1008;
  if (status === 503) {
    const after: any = headers.get('Retry-After');
    const wait = after * 1000 || Date.parse(after) - Date.now();
    ending.code = TRY_AGAIN;
    ending.retryAfter = Math.min(Math.max(wait, 0) || 0, RETRY_AFTER_MAX_MS);
  }
  return ending;
}
