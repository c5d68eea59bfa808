// Async iteration over the messages of an EventTarget.
import type { ws4redis } from './types';

const UNREAD_MAX = 10000;

/** The messages from now on, until a `close` event finds that `isClosed`. Throws above a bound of unread ones. */
export async function* messagesOf<T>(
  target: EventTarget,
  isClosed: () => boolean,
  read: (data: any) => T,
): AsyncGenerator<T, void, void> {
  const unread: ws4redis.Data[] = [];
  let wake: (() => void) | undefined;
  const arrived = ({ type, data }: any) => {
    if (type === 'message' && unread.length <= UNREAD_MAX) unread.push(data);
    wake?.();
  };
  const reading = new AbortController();
  const { signal } = reading;
  target.addEventListener('message', arrived, { signal });
  target.addEventListener('close', arrived, { signal });
  try {
    for (;;) {
      if (unread.length > UNREAD_MAX) throw new RangeError(`more than ${UNREAD_MAX} unread messages`);
      if (unread.length) yield read(unread.shift());
      else if (isClosed()) return;
      else await new Promise<void>((resolve) => (wake = resolve));
    }
  } finally {
    reading.abort();
  }
}

/** A message event with `json()` and further fields. */
export function messageEvent(data: ws4redis.Data, fields?: object): MessageEvent<ws4redis.Data> {
  const event = new MessageEvent('message', { data });
  return Object.assign(event, { json: () => JSON.parse(data as string) }, fields);
}
