/*! ws4redis.js: the browser client of the ws4redis gateway. MIT licence. */
// Options, events and types are declared in ws4redis.d.ts; docs/javascript.md has the rules.

(function (global) {
  'use strict';

  const AUDIENCES = ['broadcast', 'group', 'user', 'session'];
  const TICK_MS = 5000;
  const MISSED_MAX = 3;
  const DELAY_MAX_S = 30;
  /** How long a connection has to be open for what was before not to count any more. */
  const STABLE_MS = 60000;
  /** How far clients spread that were all sent away at once, and when the first of them comes back. */
  const SPREAD_MS = 10000;
  const SPREAD_FROM_MS = 1000;
  /** Attempts are this far apart, up to twice as far, while the browser says that there is no network. */
  const OFFLINE_MS = 15000;
  /** For the token, the WebSocket and the fallback together; proxies that know no upgrades may just say nothing. */
  const ATTEMPT_MS = 20000;
  /** Timers of hidden tabs come each minute only; a tick later than this means that the machine has slept. */
  const JUMP_MS = 90000;
  const RETRY_AFTER_MAX_MS = 3600000;
  const LOOPBACK = /^((.*\.)?localhost|127\.[\d.]+|\[::1\])$/;
  const ECHO_MS = 5000;
  const UNREAD_MAX = 10000;

  // ---- What both APIs share

  /**
   * One connection at a time, which comes back.
   * @param {object} how  `open` makes a WebSocket or something like it; `heartbeat`; `modern` for the rules that
   *   upstream's client does not have; `renewable` if each attempt shows another token; `remote` if the browser knows
   *   whether there is a network to the host.
   * @param {object} on  Is told: `connecting()`, `open()`, `message(data)`, `close(event, stopped, delay, attempt)`.
   */
  function createLine({ open, heartbeat, modern, renewable, remote }, on) {
    let socket = null;
    let openedAt = 0;
    let waiting = false;
    let stopped = false;
    let attempt = 1;
    let retryTimer;
    let notBefore = 0;
    let tickTimer;
    let tickedAt;
    let missed;
    let sessionEnded = false;
    let lastChance = false;

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

    /** A hint only: on some machines, with a VPN, browsers say so all the time. */
    function seemsOffline() {
      return remote && global.navigator?.onLine === false;
    }

    function onOpen() {
      // Then the browser is wrong, and is not believed again.
      if (seemsOffline()) remote = false;
      openedAt = Date.now();
      lastChance = false;
      if (!modern) attempt = 1;
      startTicking();
      on.open();
    }

    function onMessage({ data }) {
      const beat = heartbeat && data === heartbeat;
      if (beat || modern) missed = 0;
      if (!beat) on.message(data);
    }

    function onClose(event) {
      clearInterval(tickTimer);
      if (openedAt && Date.now() - openedAt >= STABLE_MS) {
        attempt = 1;
        sessionEnded = false;
      }
      openedAt = 0;
      let delay = 0;
      // The timer is set before anybody is told: a callback that throws must not end the reconnecting, and one that
      // calls close() must find the timer.
      if (!stopped && isWorthRetrying(event)) {
        waiting = true;
        delay = delayAfter(event, Math.min(DELAY_MAX_S, 2 ** attempt - 1) * 1000);
        notBefore = Date.now() + (event.retryAfter || 0);
        retryTimer = setTimeout(connect, delay);
        if (!seemsOffline()) attempt += 1;
      } else {
        stopped = true;
      }
      on.close(event, stopped, delay, attempt - 1);
    }

    function isWorthRetrying({ code, inconclusive, useless }) {
      if (useless) return false;
      if (code === 4401 && (renewable || !sessionEnded)) {
        sessionEnded = lastChance = true;
        return true;
      }
      // Browsers show a refused handshake as 1006, so the attempt after 4401 is judged by whether it opened at all,
      // unless it is known that it was not the visitor who was refused.
      return (!lastChance || inconclusive) && code !== 1008 && !(code >= 4400 && code <= 4499);
    }

    function delayAfter({ code, retryAfter }, limit) {
      if (!modern) return Math.random() * limit;
      let [from, to] = [0, limit];
      if (code === 1001 || code === 1012 || code === 1013) [from, to] = [SPREAD_FROM_MS, Math.max(limit, SPREAD_MS)];
      if (seemsOffline()) [from, to] = [OFFLINE_MS, 2 * OFFLINE_MS];
      return Math.max(from + Math.random() * (to - from), retryAfter || 0);
    }

    function startTicking() {
      clearInterval(tickTimer);
      missed = 0;
      tickedAt = Date.now();
      if (heartbeat || modern) tickTimer = setInterval(tick, TICK_MS);
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
      else if (socket.transport !== 'sse') socket.send(heartbeat);
    }

    /** Gives up a connection that is dead, or seems so. */
    function drop(reason) {
      clearInterval(tickTimer);
      socket.close();
      // A dead peer does not answer the close either, and browsers wait long for that.
      if (modern) onClose({ code: 1006, reason, wasClean: false });
    }

    /** Looks after the connection when the tab is shown again, or the network or the machine was `away`. */
    function check(away) {
      if (waiting) {
        if (Date.now() >= notBefore) connect();
      } else if (openedAt && heartbeat) {
        // The answer has to be there at the next tick.
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
      if (socket) socket.close();
    }

    const online = () => check(remote);
    return { connect, check, online, close, socket: () => socket, isStopped: () => stopped };
  }

  // ---- The legacy API: that of django-websocket-redis

  /**
   * A WebSocket to the gateway that comes back after every close, with and without `new`.
   *
   * Before the k-th attempt since the last open it waits for a random time in [0, min(30, 2^k - 1)) seconds. It stops
   * after `close()`, and after the codes 1008 and 4400 to 4499; but after 4401 (the session has ended) it tries once
   * more, with the cookie the browser then has.
   *
   * @class
   * @param {WS4Redis.Options} options
   * @param {*} [$]  Accepted for pages that hand in jQuery; not needed and not used.
   * @throws {Error} if `options.uri` is missing
   */
  function WS4Redis(options, $) {
    if (!(this instanceof WS4Redis)) return new WS4Redis(options, $);
    if (!options || !options.uri) throw new Error('WS4Redis: options.uri is missing');

    const opts = Object.assign({}, options);
    // A callback that throws is an error of the page, which is reported and changes nothing here.
    const call = (name, ...args) => {
      try {
        if (typeof opts[name] === 'function') opts[name](...args);
      } catch (error) {
        report(error);
      }
    };
    const line = createLine(
      { open: () => openWebSocket(opts.uri), heartbeat: opts.heartbeat_msg },
      {
        connecting: () => call('connecting'),
        open: () => call('connected'),
        message: (data) => call('receive_message', data),
        close(event, stopped, delay, attempt) {
          if (event.error) report(event.error);
          call('disconnected', event);
          if (!line.isStopped()) call('reconnecting', delay, attempt);
        },
      },
    );

    /**
     * Sends a message on all channels of the publish flags.
     * @param {string|Blob|ArrayBuffer|ArrayBufferView} message
     * @throws {DOMException} while the first attempt is under way; after a close the message is dropped without a
     *   word, as by `WebSocket.send`
     */
    this.send_message = (message) => line.socket().send(message);

    /** @returns {number} 0 connecting, 1 open, 2 closing, 3 closed (also while waiting for the next attempt) */
    this.get_state = () => line.socket().readyState;

    this.is_connecting = () => this.get_state() === 0;
    this.is_connected = () => this.get_state() === 1;
    this.is_closing = () => this.get_state() === 2;
    this.is_closed = () => this.get_state() === 3;

    /** Closes the connection for good. No timer is left behind. */
    this.close = () => line.close();

    line.connect();
  }

  // ---- The modern API

  /**
   * Opens a connection to the gateway that the page came from, and keeps it.
   *
   * The returned EventTarget has the events `message`, `open`, `gap`, `close` and `state`, is an async iterable of the
   * messages, and has `state`, `transport` and `url`, `send`, `sendJSON`, `json` and `close`. docs/javascript.md tells
   * the rules.
   *
   * @param {string|URL} path  Prefix and facility, e.g. `/ws/foobar`, or a whole address.
   * @param {ws4redis.Options} [options]
   * @throws {TypeError|SyntaxError|DOMException} for an unknown audience, or what is no address
   */
  function ws4redis(path, options = {}) {
    const { token, heartbeat, queue = 0, fallback = true, signal } = options;
    const url = addressOf(path, options);
    const socket = new EventTarget();
    const ending = new AbortController();
    const kept = [];
    let wasOpen = false;

    const line = createLine(
      {
        open: () => openTransport(url, token, fallback),
        heartbeat,
        modern: true,
        renewable: !!token,
        remote: !LOOPBACK.test(new URL(url).hostname),
      },
      {
        connecting: () => setState('connecting'),
        open() {
          socket.transport = line.socket().transport;
          socket.state = 'open';
          // Before anybody is told, who may send more.
          for (const { data, resolve, reject } of kept.splice(0)) send(data).then(resolve, reject);
          setState('open');
          const again = wasOpen;
          wasOpen = true;
          if (socket.state === 'open') emit('open');
          if (socket.state === 'open' && again) emit('gap');
        },
        message(data) {
          const event = new MessageEvent('message', { data });
          socket.dispatchEvent(Object.assign(event, { json: () => JSON.parse(data) }));
        },
        close(event, stopped, delay) {
          socket.transport = null;
          const state = event.code === 4401 ? 'session-ended' : 'waiting';
          if (!stopped || state !== 'waiting') setState(state, delay);
          // A listener may have closed it.
          if (socket.state !== state && !stopped) return;
          if (stopped) finish(event);
          else emitClose(event, false);
        },
      },
    );

    function emit(type, fields) {
      socket.dispatchEvent(Object.assign(new Event(type), fields));
    }

    function emitClose({ code, reason, wasClean }, final) {
      emit('close', { code, reason, wasClean, final });
    }

    function setState(state, delay) {
      socket.state = state;
      emit('state', { state, delay });
    }

    function finish(event) {
      if (socket.state === 'closed') return;
      ending.abort();
      socket.transport = null;
      setState('closed');
      for (const { reject } of kept.splice(0)) reject(away());
      emitClose(event, true);
    }

    function away() {
      return new DOMException('there is no connection to send by', 'InvalidStateError');
    }

    async function send(data) {
      // Between the peer's close frame and the close event browsers drop messages without a word.
      if (socket.state === 'open' && line.socket().readyState === 1) return line.socket().send(data);
      if (socket.state === 'closed' || kept.length >= queue) throw away();
      const copy = copyOf(data);
      return new Promise((resolve, reject) => kept.push({ data: copy, resolve, reject }));
    }

    function close() {
      line.close();
      finish({ code: 1000, reason: '', wasClean: true });
    }

    async function* messages(read) {
      const unread = [];
      let wake;
      const arrived = ({ type, data }) => {
        if (type === 'message' && unread.length <= UNREAD_MAX) unread.push(data);
        wake?.();
      };
      socket.addEventListener('message', arrived);
      socket.addEventListener('close', arrived);
      try {
        for (;;) {
          if (unread.length > UNREAD_MAX) throw new RangeError(`more than ${UNREAD_MAX} messages wait to be read`);
          if (unread.length) yield read(unread.shift());
          else if (socket.state === 'closed') return;
          else await new Promise((resolve) => (wake = resolve));
        }
      } finally {
        socket.removeEventListener('message', arrived);
        socket.removeEventListener('close', arrived);
      }
    }

    Object.assign(socket, {
      url,
      state: 'waiting',
      transport: null,
      send,
      sendJSON: (value) => send(JSON.stringify(value)),
      json: () => messages(JSON.parse),
      [Symbol.asyncIterator]: () => messages((data) => data),
      close,
    });
    if (signal?.aborted) {
      close();
      return socket;
    }
    line.connect();
    const listen = (target, type, listener) => target?.addEventListener?.(type, listener, { signal: ending.signal });
    listen(signal, 'abort', close);
    listen(global, 'online', line.online);
    listen(global.document, 'resume', () => line.check(true));
    listen(global.document, 'visibilitychange', () => global.document.hidden || line.check(false));
    return socket;
  }

  function addressOf(path, { subscribe = [], publish = [], echo }) {
    const url = new URL(path, global.location?.href);
    if (url.hash) throw new SyntaxError('ws4redis: a # in a facility has to be written as %23');
    url.protocol = url.protocol.replace('http', 'ws');
    if (!/^wss?:/.test(url.protocol)) throw new SyntaxError(`ws4redis: ${url} is no address of a gateway`);
    const flags = (verb, audiences) =>
      [].concat(audiences).map((name) => {
        // The gateway ignores what it does not know.
        if (!AUDIENCES.includes(name)) throw new TypeError(`ws4redis: there is no audience ${name} to ${verb}`);
        return `${verb}-${name}`;
      });
    url.search = [
      ...(url.search ? [url.search.slice(1)] : []),
      ...flags('subscribe', subscribe),
      ...flags('publish', publish),
      ...(echo ? ['echo'] : []),
    ].join('&');
    return url.href;
  }

  // ---- What messages travel by

  function openWebSocket(url, protocols = []) {
    try {
      const socket = new WebSocket(url, protocols);
      // Blobs are read asynchronously, which would mix up the order of messages.
      socket.binaryType = 'arraybuffer';
      return socket;
    } catch (error) {
      // A refusal like any other, but for ws: on a page of https:, a port that browsers block, and what is no address:
      // there the next attempt would throw as well. Another token may be one that can be sent.
      const { name, message } = error;
      const useless = name === 'SecurityError' || (name === 'SyntaxError' && !protocols.length);
      const failed = { readyState: 3, send() {}, close() {} };
      queueMicrotask(() => failed.onclose({ ...lost(`${name}: ${message}`), useless, error }));
      return failed;
    }
  }

  /** As an uncaught error, so that the page's own reporting sees it. */
  function report(error) {
    queueMicrotask(() => {
      throw error;
    });
  }

  /**
   * One attempt: asks for the token, opens a WebSocket, and if that is refused the fallback. Looks like a WebSocket, but
   * says nothing more once it was closed.
   */
  function openTransport(url, token, fallback) {
    let inner;
    let isOpen = false;
    let done = false;
    const self = {
      transport: 'websocket',
      get readyState() {
        return inner.readyState;
      },
      send: (data) => inner.send(data),
      close() {
        done = true;
        clearTimeout(patience);
        inner?.close();
      },
    };

    function end(event) {
      if (done) return;
      self.close();
      self.onclose(event);
    }

    function use(candidate) {
      inner = candidate;
      inner.onopen = () => {
        if (done) return;
        isOpen = true;
        clearTimeout(patience);
        self.onopen();
      };
      inner.onmessage = (event) => done || self.onmessage(event);
      inner.onalive = () => done || self.onalive();
      inner.onclose = end;
    }

    function dial(bearer) {
      // A token is never answered as the chosen subprotocol, and browsers want one to be.
      use(openWebSocket(url, bearer ? ['ws4redis', `bearer.${bearer}`] : []));
      inner.onclose = (event) => {
        if (done || isOpen || !fallback || event.code !== 1006 || event.useless) return end(event);
        self.transport = 'sse';
        use(openStream(url.replace('ws', 'http'), bearer));
      };
    }

    if (token) {
      Promise.resolve()
        .then(token)
        .then((bearer) => done || dial(bearer))
        .catch((error) => end(lost(`token: ${error?.message ?? error}`)));
    } else {
      dial();
    }
    // Set last, since what is no address throws.
    const patience = setTimeout(() => end(lost('no answer')), ATTEMPT_MS);
    return self;
  }

  /** A close that says nothing about what the server thinks of the visitor. */
  function lost(reason) {
    return { code: 1006, reason, wasClean: false, inconclusive: true };
  }

  /**
   * The fallback: server-sent events and POST at the same address. Looks like a WebSocket. EventSource would hide the
   * status, and sets no headers.
   */
  function openStream(url, bearer) {
    const reading = new AbortController();
    let posts = Promise.resolve();
    let posting = new AbortController();
    // Texts that will come back, since the gateway cannot tell whose stream is the poster's; for a while.
    let echoes = [];
    // Without the mark the gateway answers 200 in place of 503: a native EventSource would never come back.
    const marked = `${url}${url.includes('?') ? '&' : '?'}client=ws4redis`;
    const flags = [...new URL(url).searchParams.keys()];
    const hearsItself =
      !flags.includes('echo') &&
      flags.some((flag) => flag.startsWith('publish-') && flags.includes(flag.replace('publish', 'subscribe')));
    const takeEcho = (text) => {
      echoes = echoes.filter(({ until }) => until > Date.now());
      const at = echoes.findIndex((echo) => echo.text === text);
      return at >= 0 && echoes.splice(at, 1);
    };
    const self = {
      readyState: 0,
      close: () => reading.abort(),
      /** @returns {Promise<void>} settles when the gateway has answered */
      send(data) {
        const body = copyOf(data);
        const text = typeof body === 'string';
        const echo = text && hearsItself && body.replace(/\r\n?/g, '\n');
        const headers = {
          'Content-Type': text ? 'text/plain;charset=utf-8' : 'application/octet-stream',
          'X-WS4Redis': '1',
        };
        const mine = posting;
        // One after the other, since messages keep their order; those behind one that is not answered fail with it.
        const sent = posts
          .then(() => {
            if (echo && !mine.signal.aborted) echoes.push({ text: echo, until: Date.now() + ECHO_MS });
            const patience = setTimeout(() => {
              posting = new AbortController();
              mine.abort(new Error('the message was not taken: no answer'));
            }, ATTEMPT_MS);
            const done = () => clearTimeout(patience);
            return ask({ method: 'POST', headers, body, signal: mine.signal }).finally(done);
          })
          .then((response) => {
            if (response.ok) return;
            takeEcho(echo);
            throw new Error(`the message was not taken: HTTP ${response.status}`);
          });
        posts = sent.catch(() => {});
        return sent;
      },
    };

    function ask(init, address = url) {
      const headers = Object.assign(bearer ? { Authorization: `Bearer ${bearer}` } : {}, init.headers);
      // As with a WebSocket, the cookies of the gateway's own host are sent from pages of others, too; a redirection leads
      // to a page for people.
      return fetch(address, { ...init, headers, credentials: 'include', cache: 'no-store', redirect: 'manual' });
    }

    async function read() {
      const headers = { Accept: 'text/event-stream' };
      const response = await ask({ headers, signal: reading.signal }, marked);
      const type = response.headers.get('Content-Type') || '';
      if (response.status !== 200 || !type.startsWith('text/event-stream')) {
        const text = type.startsWith('text/plain') ? (await response.text()).trim() : '';
        return refusal(response, `HTTP ${response.status} ${text}`.trim());
      }
      self.readyState = 1;
      self.onopen();
      let last = lost('the stream has ended');
      const feed = eventParser((kind, data) => {
        if (kind === '') takeEcho(data) || self.onmessage({ data });
        else if (kind === 'binary') self.onmessage({ data: bytesOf(data) });
        else if (kind === 'close') last = Object.assign({ wasClean: true }, JSON.parse(data));
      });
      const decoder = new TextDecoder();
      const reader = response.body.getReader();
      for (;;) {
        const { done, value } = await reader.read();
        if (done) return last;
        self.onalive();
        feed(decoder.decode(value, { stream: true }));
      }
    }

    read()
      .catch((error) => lost(`${error?.message ?? error}`))
      .then((event) => {
        self.readyState = 3;
        self.onclose(event);
      });
    return self;
  }

  /** What a status other than 200 means, as a close. */
  function refusal({ status, headers }, reason) {
    if (status === 403) return { code: 1008, reason, wasClean: false };
    if (status !== 503) return { code: 1006, reason, wasClean: false, inconclusive: status >= 500 };
    const after = headers.get('Retry-After') || '';
    const wait = /^\d+$/.test(after) ? after * 1000 : Date.parse(after) - Date.now();
    return { ...lost(reason), code: 1013, retryAfter: Math.min(Math.max(wait, 0) || 0, RETRY_AFTER_MAX_MS) };
  }

  /** A message as it is now: the page may change a buffer before its turn comes. What is no message is its text. */
  function copyOf(data) {
    if (data?.byteLength >= 0) {
      return new Uint8Array(data.buffer ?? data, data.byteOffset ?? 0, data.byteLength).slice().buffer;
    }
    return data?.arrayBuffer ? data : `${data}`;
  }

  function bytesOf(base64) {
    return Uint8Array.from(atob(base64), (character) => character.charCodeAt(0)).buffer;
  }

  /**
   * Takes the text of a stream of server-sent events (HTML standard, section 9.2.6) in pieces.
   * @param {function(string, string): void} onEvent  Gets the event's name, empty for a message, and its data.
   */
  function eventParser(onEvent) {
    let line = '';
    let halfBreak = '';
    let kind = '';
    let data = [];
    return (piece) => {
      // A line break may be two characters.
      piece = halfBreak + piece;
      halfBreak = piece.endsWith('\r') ? '\r' : '';
      const lines = piece.slice(0, piece.length - halfBreak.length).split(/\r\n|\r|\n/);
      lines[0] = line + lines[0];
      line = lines.pop();
      for (const whole of lines) {
        const [, field, value] = /^([^:]*)(?:: ?)?(.*)$/s.exec(whole);
        if (field === 'data') data.push(value);
        else if (field === 'event') kind = value === 'message' ? '' : value;
        if (whole) continue;
        if (data.length) onEvent(kind, data.join('\n'));
        kind = '';
        data = [];
      }
    };
  }

  WS4Redis.connect = ws4redis;
  // The only global, as in upstream's file: pages have a ws4redis of their own.
  global.WS4Redis = WS4Redis;
})(globalThis);
