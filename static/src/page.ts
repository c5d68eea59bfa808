// One socket for a whole page: the protocol ws4redis.2, with a socket per facility where a server or a proxy has only that.
import { addressOf, isRemote } from './address';
import { type Ending, SESSION_ENDED, lost } from './codes';
import { type Transport, createReconnector } from './connection';
import { identify } from './diagnosis';
import { connect } from './modern';
import { openPageSocket } from './page_socket';
import { ATTEMPT_MS } from './sse';
import { type Carrier, type Subscribed, createSubscription, subscriptionFlags } from './subscription';
import { REFUSALS } from './transport';
import type { ws4redis } from './types';
import { watchBrowser } from './wake';

const HEARTBEAT = '{"t":"hb"}';
const HEARTBEAT_MS = 20000;
/** Changes from sockets per facility back to one, after which a page stays with the former. */
const RETURNS_MAX = 3;

interface Waiting {
  resolve(): void;
  reject(error: Error): void;
  timer: number;
}

export function connectPage(path: string | URL, options: ws4redis.PageOptions = {}): ws4redis.Page {
  const { token, queue = 0, fallback = true, signal } = options;
  const url = addressOf(path, {});
  if (!new URL(url).pathname.endsWith('/')) throw new SyntaxError('ws4redis: the path of a page ends with /');
  const page = new EventTarget() as { -readonly [K in keyof ws4redis.Page]: ws4redis.Page[K] };
  const ending = new AbortController();
  const subscriptions = new Map<string, Subscribed>();
  const unanswered = new Map<number, Waiting>();
  /** Facilities whose first answer is known, and '' after the first greeting: the console is told once. */
  const told = new Set<string>();
  let serial = 0;
  let carrier: Transport;
  let reconnector: ReturnType<typeof createReconnector>;
  /** Each facility has a socket of its own. */
  let isPlain = false;
  let isOld = false;
  let refusals = 0;
  let returns = 0;
  /** The token that the page has given last. */
  let bearer: string | undefined;

  function start() {
    reconnector = createReconnector(
      {
        url,
        open: () => (carrier = openPageSocket(url, token, () => usePlain(true))),
        heartbeat: HEARTBEAT,
        every: HEARTBEAT_MS,
        modern: true,
        renewable: !!token,
      },
      {
        connecting: () => setState('connecting'),
        open: () => (refusals = 0),
        message: (data) => receive(JSON.parse(data as string)),
        close(event, stopped, delay) {
          const wasOpen = page.state === 'open';
          subscriptions.forEach(({ wait }) => wait());
          rejectUnanswered(lost(event.reason));
          if (!wasOpen && event.code === 1006 && !event.useless && (refusals += 1) >= REFUSALS && fallback) {
            return usePlain(false);
          }
          const state = event.code === SESSION_ENDED ? 'session-ended' : 'waiting';
          if (!stopped || state !== 'waiting') setState(state, delay);
          if (stopped) finish(event);
          // A listener may have closed it.
          else if (page.state === state) emitClose(event, false);
        },
      },
    );
    reconnector.connect();
  }

  function receive(object: any) {
    const { t, r, f, c, user } = object;
    if (t === 'hello') {
      Object.assign(page, { id: c, user });
      page.state = 'open';
      if (bearer) carrier.send(JSON.stringify({ t: 'auth', token: bearer }));
      // Before the page's listeners run, which may subscribe to more.
      subscriptions.forEach(ask);
      setState('open');
      if (page.state === 'open') emit('open');
      if (!told.size && !isRemote(url)) identify(url, bearer ?? carrier.bearer, page);
      told.add('');
    } else if (t === 'user') {
      page.user = user;
      subscriptions.forEach(({ askAgain }) => askAgain());
      emit('user', { user });
    } else if (unanswered.has(r)) {
      settle(r, t === 'err' ? new Error(`${object.code} ${object.why}`) : undefined);
    } else {
      if (t === 'sub' && !told.has(f)) {
        told.add(f);
        if (object.no?.length) console.info(`ws4redis: not granted in ${f}: ${object.no}`);
      }
      subscriptions.get(f)?.receive(object);
    }
  }

  function settle(number: number, error?: Error) {
    const { resolve, reject, timer } = unanswered.get(number)!;
    unanswered.delete(number);
    clearTimeout(timer);
    if (error) reject(error);
    else resolve();
  }

  function rejectUnanswered({ reason }: Ending) {
    for (const number of unanswered.keys()) settle(number, new Error(`no answer: ${reason}`));
  }

  function request(object: object): Promise<void> {
    if (page.state !== 'open' || isPlain || carrier.readyState !== 1) {
      return Promise.reject(new DOMException('there is no connection', 'InvalidStateError'));
    }
    const number = (serial += 1);
    carrier.send(JSON.stringify({ ...object, r: number }));
    return new Promise((resolve, reject) => {
      const timer = setTimeout(() => settle(number, new Error('no answer')), ATTEMPT_MS);
      unanswered.set(number, { resolve, reject, timer });
    });
  }

  function ask({ asking }: Subscribed) {
    carrier.send(JSON.stringify(asking()));
  }

  function usePlain(old: boolean) {
    reconnector.close();
    isPlain = true;
    isOld = old;
    subscriptions.forEach(openPlain);
  }

  function openPlain(subscribed: Subscribed) {
    subscribed.usePlain(
      ({ transport }) => {
        if (transport === 'websocket' && !isOld && returns < RETURNS_MAX) returnToOne();
      },
      ({ state, delay }) => state === 'closed' || setState(state, delay),
    );
  }

  /** WebSockets are no longer refused. */
  function returnToOne() {
    returns += 1;
    isPlain = false;
    refusals = 0;
    subscriptions.forEach(({ dropPlain }) => dropPlain());
    start();
  }

  const carried: Carrier = {
    queue,
    request,
    ask: (facility) => ask(subscriptions.get(facility)!),
    connectPlain: (facility, flags) => {
      const address = new URL(url);
      address.pathname += encodeURIComponent(facility);
      return connect(address, { ...flags, token, fallback });
    },
    leave(facility) {
      const subscribed = subscriptions.get(facility);
      if (!subscribed || (subscribed.shares -= 1)) return;
      subscriptions.delete(facility);
      if (page.state === 'open' && !isPlain) carrier.send(JSON.stringify({ t: 'unsub', f: facility }));
      subscribed.end();
    },
  };

  function subscribe(facility: string, wanted: ws4redis.SubscribeOptions = {}): ws4redis.Subscription {
    if (page.state === 'closed') throw new DOMException('the page has closed its connection', 'InvalidStateError');
    const existing = subscriptions.get(facility);
    if (existing) {
      if (`${existing.flags}` !== `${subscriptionFlags(wanted)}`) {
        throw new TypeError(`ws4redis: ${facility} is subscribed with other options`);
      }
      existing.shares += 1;
      return existing.handle;
    }
    const subscribed = createSubscription(facility, wanted, carried);
    subscriptions.set(facility, subscribed);
    if (isPlain) openPlain(subscribed);
    else if (page.state === 'open') ask(subscribed);
    return subscribed.handle;
  }

  async function authenticate(given: string) {
    await request({ t: 'auth', token: given });
    bearer = given;
  }

  function emit(type: string, fields?: object) {
    page.dispatchEvent(Object.assign(new Event(type), fields));
  }

  function emitClose({ code, reason, wasClean }: Ending, final: boolean) {
    emit('close', { code, reason, wasClean, final });
  }

  function setState(state: ws4redis.State, delay?: number) {
    page.state = state;
    emit('state', { state, delay });
  }

  function finish(event: Ending) {
    if (page.state === 'closed') return;
    ending.abort();
    setState('closed');
    rejectUnanswered(event);
    subscriptions.forEach(({ end }) => end());
    subscriptions.clear();
    emitClose(event, true);
  }

  function close() {
    reconnector?.close();
    finish({ code: 1000, reason: '', wasClean: true });
  }

  Object.assign(page, {
    url,
    state: 'waiting',
    id: null,
    user: null,
    identity: null,
    subscribe,
    authenticate,
    close,
  });
  if (signal?.aborted) {
    close();
    return page;
  }
  start();
  signal?.addEventListener('abort', close, { signal: ending.signal });
  watchBrowser(() => reconnector, ending);
  return page;
}
