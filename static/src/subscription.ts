// One facility of a page: what the gateway says about it becomes events, and it remembers where to continue.
import { AUDIENCES, flagsOf } from './address';
import { delayOf } from './backoff';
import { TRY_AGAIN, lost } from './codes';
import { bytesOf, copyOf } from './payload';
import { messageEvent, messagesOf } from './reading';
import type { ws4redis } from './types';

/** What a subscription needs of its page. */
export interface Carrier {
  queue: number;
  /** Sends a request and resolves with the gateway's answer to it. */
  request(object: object): Promise<void>;
  /** Sends what `asking` returns. */
  ask(facility: string): void;
  /** Opens a connection for this facility alone, as to a server that knows no pages. */
  connectPlain(facility: string, options: ws4redis.Options): ws4redis.Socket;
  /** Forgets the facility. */
  leave(facility: string): void;
}

interface Kept {
  data: string | ArrayBuffer;
  to: ws4redis.PublishOptions['to'];
  resolve(sent: Promise<void>): void;
}

type Handle = { -readonly [K in keyof ws4redis.Subscription]: ws4redis.Subscription[K] };

const DEFAULT = 'broadcast';
/** Codes of refusals that do not last: too fast, and no Redis or no space. */
const PASSING = [429, 503];

/** Returns the flags of a subscription. */
export function subscriptionFlags(options: ws4redis.SubscribeOptions): string[] {
  const { subscribe = DEFAULT, publish, presence, echo } = options;
  const flags = [...flagsOf('subscribe', subscribe), ...flagsOf('publish', publish)];
  if (presence) flags.push('presence');
  if (echo) flags.push('echo');
  return flags;
}

export type Subscribed = ReturnType<typeof createSubscription>;

export function createSubscription(facility: string, options: ws4redis.SubscribeOptions, page: Carrier) {
  const flags = subscriptionFlags(options);
  const handle = new EventTarget() as Handle;
  const kept: Kept[] = [];
  let wasSubscribed = false;
  /** The gateway cannot continue, and the connection may end before it says what was lost. */
  let awaitsGap = false;
  let plain: ws4redis.Socket | undefined;
  let retryTimer: number | undefined;
  let attempt = 1;

  function emit(type: string, fields?: object) {
    handle.dispatchEvent(Object.assign(new Event(type), fields));
  }

  /** The request to subscribe, from where the last connection ended. */
  function asking() {
    const { last, since } = options;
    return { t: 'sub', f: facility, flags, since: handle.ids ?? since, last: wasSubscribed ? undefined : last };
  }

  function receive(object: any) {
    // Without names only the number of anonymous visitors has changed.
    const { t, a, id, u, users = handle.users, anonymous } = object;
    if (t === 'msg') {
      if (id) handle.ids = { ...handle.ids, [a]: id };
      const data = object.b === undefined ? object.d : bytesOf(object.b);
      handle.dispatchEvent(messageEvent(data, { audience: a, id, last: !!object.last }));
    } else if (t === 'sub') {
      // While it is subscribed, only what is granted has changed.
      const missed = awaitsGap || (wasSubscribed && handle.state === 'waiting' && object.recovered === undefined);
      awaitsGap = object.recovered === false;
      Object.assign(handle, { state: 'subscribed', granted: object.ok, refused: object.no });
      if (object.ids) handle.ids = { ...handle.ids, ...object.ids };
      begin(object.recovered, missed);
    } else if (t === 'gap') {
      awaitsGap = false;
      emit('gap');
    } else if (t === 'here') {
      Object.assign(handle, { users, anonymous });
      emit('here', { users, anonymous });
    } else if (t === 'join' || t === 'leave') {
      const others = handle.users.filter((name) => name !== u);
      handle.users = t === 'join' ? [...others, u] : others;
      emit(t, { user: u });
    } else if (t === 'err') {
      if (PASSING.includes(object.code)) retry();
      else refuse(object.code, object.why);
    }
  }

  /** The gateway cannot serve it now. */
  function retry() {
    wait();
    retryTimer = setTimeout(() => page.ask(facility), delayOf(attempt, { ...lost(''), code: TRY_AGAIN }, true));
    attempt += 1;
  }

  /** Another identity may be granted what this one was refused. */
  function askAgain() {
    if (handle.state !== 'refused') return;
    handle.state = 'waiting';
    page.ask(facility);
  }

  function begin(recovered: boolean | undefined, missed: boolean) {
    wasSubscribed = true;
    attempt = 1;
    flush();
    emit('subscribed', { granted: handle.granted, refused: handle.refused, recovered });
    // The gateway says so itself where it was asked to continue.
    if (missed) emit('gap');
  }

  function refuse(code: number, reason: string) {
    handle.state = 'refused';
    flush();
    emit('refused', { code, reason });
  }

  /** The connection is gone. */
  function wait() {
    clearTimeout(retryTimer);
    if (handle.state === 'subscribed') handle.state = 'waiting';
    handle.users = [];
    handle.anonymous = 0;
  }

  /** Uses a connection of its own from now on; calls `opened` with it, each time that it opens. */
  function usePlain(opened: (socket: ws4redis.Socket) => void, changed: (event: ws4redis.StateChange) => void) {
    const { subscribe = DEFAULT, publish, echo } = options;
    const socket = page.connectPlain(facility, { subscribe, publish, echo });
    plain = socket;
    const on = <K extends keyof ws4redis.Events>(type: K, listener: (event: ws4redis.Events[K]) => void) =>
      socket.addEventListener(type, (event) => socket === plain && listener(event));
    on('state', changed);
    on('transport', () => opened(socket));
    on('open', () => {
      opened(socket);
      if (socket !== plain) return;
      const granted = flags.filter((flag) => flag !== 'presence' && flag !== 'echo');
      const refused = options.presence ? ['presence'] : [];
      const short = granted.map((flag) => flag.replace('subscribe-', ''));
      Object.assign(handle, { state: 'subscribed', granted: short, refused });
      begin(undefined, wasSubscribed);
    });
    on('message', ({ data }) => handle.dispatchEvent(messageEvent(data, { last: false })));
    on('close', ({ code, reason, final }) => {
      wait();
      if (final) refuse(code, reason);
    });
  }

  function dropPlain() {
    const socket = plain;
    plain = undefined;
    socket?.close();
    wait();
  }

  function flush() {
    for (const { data, to, resolve } of kept.splice(0)) resolve(send(data, { to }));
  }

  async function send(data: ws4redis.Publishable, { to }: ws4redis.PublishOptions = {}): Promise<void> {
    const audiences = to && ([] as ws4redis.Audience[]).concat(to);
    if (audiences?.some((name) => !AUDIENCES.includes(name))) throw new TypeError(`ws4redis: no audience ${to}`);
    if (plain && handle.state === 'subscribed') {
      if (to) throw new DOMException('this server publishes to all audiences of a socket', 'NotSupportedError');
      return plain.send(data);
    }
    const copy = copyOf(data) as string | ArrayBuffer;
    if (handle.state === 'subscribed') {
      const content = typeof copy === 'string' ? { d: copy } : { b: base64Of(copy) };
      return page.request({ t: 'pub', f: facility, a: audiences, ...content });
    }
    if (handle.state !== 'waiting' || kept.length >= page.queue) {
      throw new DOMException('not subscribed', 'InvalidStateError');
    }
    return new Promise((resolve) => kept.push({ data: copy, to, resolve }));
  }

  /** Ends it without a further event but `close`. */
  function end() {
    if (handle.state === 'closed') return;
    dropPlain();
    handle.state = 'closed';
    flush();
    emit('close');
  }

  const messages = <T>(read: (data: any) => T) => messagesOf(handle, () => handle.state === 'closed', read);

  Object.assign(handle, {
    facility,
    state: 'waiting',
    granted: [],
    refused: [],
    users: [],
    anonymous: 0,
    send,
    sendJSON: (value: unknown, to?: ws4redis.PublishOptions) => send(JSON.stringify(value), to),
    json: () => messages(JSON.parse),
    [Symbol.asyncIterator]: () => messages((data) => data),
    unsubscribe: () => page.leave(facility),
  });
  return { handle: handle as ws4redis.Subscription, flags, shares: 1, asking, receive, wait, askAgain, usePlain, dropPlain, end };
}

function base64Of(bytes: ArrayBuffer): string {
  return btoa(Array.from(new Uint8Array(bytes), (byte) => String.fromCharCode(byte)).join(''));
}
