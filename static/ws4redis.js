/*! ws4redis.js: the browser client of the ws4redis gateway. MIT licence. */
// Options, events and types are declared in ws4redis.d.ts; docs/javascript.md has the rules.

(function (global) {
  'use strict';

  const AUDIENCES = ['broadcast', 'group', 'user', 'session'];
  const TICK_MS = 5000;
  const MISSED_MAX = 3;
  const DELAY_MAX_S = 30;
  // Open for so long, a connection makes what was before it count no more.
  const STABLE_MS = 60000;
  // After a close that all clients got.
  const SPREAD_MS = 10000;
  const SPREAD_FROM_MS = 1000;
  const OFFLINE_MS = 15000;
  // For the token, the WebSocket and the fallback together.
  const ATTEMPT_MS = 20000;
  // Timers of hidden tabs come once a minute; a later tick means that the machine has slept.
  const JUMP_MS = 90000;
  const RETRY_AFTER_MAX_MS = 3600000;
  const LOOPBACK = /^((.*\.)?localhost|127\.[\d.]+|\[::1\])$/;
  const ECHO_MS = 5000;
  const UNREAD_MAX = 10000;
  // Refused WebSockets in a row, with streams answered, before the fallback takes over from WebSockets.
  const REFUSALS = 3;
  const PROBE_MS = 15000;
  const PROBE_MAX_MS = 300000;
  const QUIET_MS = 1000;
  const BUSY_MS = 10000;
  const OVERLAP_MAX_MS = 60000;
  const RECALL_MAX = 1000;

  // ---- What both APIs share

  /**
   * One connection at a time, which comes back. `modern`: the rules that upstream's client does not have; `renewable`:
   * each attempt has another token; `remote`: the browser may know whether there is a network.
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
      socket.onswitch = () => {
        missed = 0;
        on.switch();
      };
    }

    function seemsOffline() {
      return remote && global.navigator?.onLine === false;
    }

    function onOpen() {
      // With some VPNs browsers say so all the time.
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
      // Before anybody is told: a callback may call close().
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
      // Browsers show a refused visitor as 1006, too: the attempt after 4401 has to open.
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

    function drop(reason) {
      clearInterval(tickTimer);
      socket.close();
      // Browsers wait long for the answer to a close.
      if (modern) onClose({ code: 1006, reason, wasClean: false });
    }

    /** When the tab is shown again, or the network or the machine was `away`. */
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

  /** jQuery, `$`, is accepted and not used. */
  function WS4Redis(options, $) {
    if (!(this instanceof WS4Redis)) return new WS4Redis(options, $);
    if (!options || !options.uri) throw new Error('WS4Redis: options.uri is missing');

    const opts = Object.assign({}, options);
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

    /** Throws while the first attempt is under way, as WebSockets do. */
    this.send_message = (message) => line.socket().send(message);

    this.get_state = () => line.socket().readyState;

    this.is_connecting = () => this.get_state() === 0;
    this.is_connected = () => this.get_state() === 1;
    this.is_closing = () => this.get_state() === 2;
    this.is_closed = () => this.get_state() === 3;

    this.close = () => line.close();

    line.connect();
  }

  // ---- The modern API

  function ws4redis(path, options = {}) {
    const { token, heartbeat, fallback = true, queue = 0, signal } = options;
    const url = addressOf(path, options);
    const socket = new EventTarget();
    const ending = new AbortController();
    const kept = [];
    const past = { refusals: REFUSALS };
    let wasOpen = false;

    const line = createLine(
      {
        open: () => openTransport(url, token, fallback, past),
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
        switch() {
          socket.transport = line.socket().transport;
          emit('transport');
        },
        close(event, stopped, delay) {
          socket.transport = null;
          const state = event.code === 4401 ? 'session-ended' : 'waiting';
          if (!stopped || state !== 'waiting') setState(state, delay);
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
      // Browsers drop messages between the peer's close frame and the close event.
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
      // ws: on a page of https:, or no address: each attempt would throw. Another token may be sendable.
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

  /** One attempt, like a WebSocket: asks for the token, dials, takes the fallback; silent once it was closed. */
  function openTransport(url, token, fallback, past) {
    let inner;
    let bearer;
    let isOpen = false;
    let done = false;
    let stopProbe = nothing;
    const brought = [];
    const marks = createMarks();
    const self = {
      transport: 'websocket',
      get readyState() {
        return inner.readyState;
      },
      send: (data) => inner.send(data),
      close() {
        done = true;
        clearTimeout(patience);
        stopProbe();
        stopProbe = nothing;
        inner?.close();
      },
    };

    function end(event) {
      if (done) return;
      self.close();
      self.onclose(event);
    }

    function receive(event) {
      if (!done && !marks.take(event.data)) self.onmessage(event);
    }

    function use(candidate) {
      inner = candidate;
      inner.onopen = () => {
        if (done) return;
        isOpen = true;
        clearTimeout(patience);
        if (self.transport === 'websocket') past.refusals = 0;
        self.onopen();
      };
      inner.onmessage = receive;
      inner.onalive = () => done || self.onalive();
      inner.onclose = end;
    }

    function dial() {
      // Browsers want one of the subprotocols to be answered, and tokens never are.
      return openWebSocket(url, bearer ? ['ws4redis', `bearer.${bearer}`] : []);
    }

    function dialFirst(answer) {
      bearer = answer;
      use(dial());
      inner.onclose = refused;
    }

    function refused(event) {
      if (done || isOpen || !fallback || event.code !== 1006 || event.useless) return end(event);
      silence(inner);
      self.transport = 'sse';
      use(openStream(url.replace('ws', 'http'), bearer, marks));
      const opened = inner.onopen;
      inner.onopen = () => {
        if (done) return;
        if ((past.refusals += 1) < REFUSALS) return end(lost('the WebSocket was refused'));
        probe(PROBE_MS);
        opened();
      };
      inner.onmessage = (event) => {
        brought.push(keyOf(event.data));
        if (brought.length > RECALL_MAX) brought.shift();
        receive(event);
      };
    }

    /**
     * Tries the WebSocket while the stream goes on. Both bring the same in the same order: what one has not brought yet is
     * `held` or `ahead`. It changes over in a quiet moment, or, where there is none, at a message that both have brought.
     */
    function probe(wait) {
      const stream = inner;
      const fromStream = stream.onmessage;
      let timer = setTimeout(start, wait * (0.5 + Math.random() / 2));
      let candidate;
      let openedAt;
      let held = [];
      let ahead = [];
      const stop = () => {
        clearTimeout(timer);
        stream.onmessage = fromStream;
        if (candidate) silence(candidate);
      };
      stopProbe = stop;

      function giveUp() {
        if (stopProbe !== stop) return;
        stop();
        probe(Math.min(2 * wait, PROBE_MAX_MS));
      }

      function start() {
        timer = setTimeout(giveUp, ATTEMPT_MS);
        Promise.resolve().then(token).then(tryWith, giveUp);
      }

      function tryWith(answer) {
        if (stopProbe !== stop) return;
        bearer = answer;
        candidate = dial();
        candidate.onclose = giveUp;
        candidate.onopen = () => {
          past.refusals = 0;
          openedAt = Date.now();
          stream.onmessage = (event) => {
            fromStream(event);
            const key = keyOf(event.data);
            const at = held.findIndex((other) => other.key === key);
            if (at < 0) ahead.push(key);
            else [held, ahead] = [held.slice(at + 1), []];
            compare(at >= 0);
          };
          compare();
        };
        candidate.onmessage = ({ data }) => {
          const key = keyOf(data);
          const at = ahead.indexOf(key);
          if (at < 0) held.push({ key, data });
          else [held, ahead] = [[], ahead.slice(at + 1)];
          compare(at >= 0);
        };
      }

      function compare(both) {
        if (stopProbe !== stop) return;
        clearTimeout(timer);
        const lasted = Date.now() - openedAt;
        if (lasted > OVERLAP_MAX_MS || held.length > UNREAD_MAX) return end(lost('the stream is behind'));
        if (both && lasted > BUSY_MS && !stream.pending) return changeOver();
        timer = setTimeout(() => {
          ahead = [];
          // Heartbeats and replayed messages.
          held = held.filter(({ key, data }) => data !== stream.beat && !brought.includes(key));
          if (held.length || stream.pending) compare();
          else changeOver();
        }, QUIET_MS);
      }

      function changeOver() {
        stopProbe = nothing;
        silence(stream);
        ahead.forEach((key) => marks.add(key));
        self.transport = 'websocket';
        use(candidate);
        self.onswitch();
        held.forEach(receive);
      }
    }

    if (token) {
      Promise.resolve()
        .then(token)
        .then((answer) => done || dialFirst(answer))
        .catch((error) => end(lost(`token: ${error?.message ?? error}`)));
    } else {
      dialFirst();
    }
    let patience = setTimeout(() => {
      patience = setTimeout(() => end(lost('no answer')), ATTEMPT_MS / 2);
      // Some proxies say nothing.
      if (fallback && inner && self.transport === 'websocket') refused(lost('no answer'));
    }, ATTEMPT_MS / 2);
    return self;
  }

  function nothing() {}

  function silence(socket) {
    socket.onopen = socket.onmessage = socket.onalive = socket.onclose = nothing;
    socket.close();
  }

  /** Messages to leave out once, for a while: own ones that come back, and what the stream brought before the WebSocket. */
  function createMarks() {
    let marks = [];
    return {
      add(key, ms = ECHO_MS) {
        const mark = { key, until: Date.now() + ms };
        marks.push(mark);
        return mark;
      },
      take(data) {
        marks = marks.filter(({ until }) => until > Date.now());
        const key = marks.length && keyOf(data);
        const at = marks.findIndex((mark) => mark.key === key);
        return at >= 0 && marks.splice(at, 1);
      },
    };
  }

  /** The same from both; streams make line feeds of all ends of lines. */
  function keyOf(data) {
    const isText = typeof data === 'string';
    const units = isText ? data.replace(/\r\n?/g, '\n') : new Uint8Array(data);
    let [a, b] = [0, isText];
    for (let i = 0; i < units.length; i += 1) {
      const unit = isText ? units.charCodeAt(i) : units[i];
      a = Math.imul(a ^ unit, 0x9e3779b1);
      b = Math.imul(b ^ unit ^ (a >>> 15), 0x5f356495);
    }
    return `${a} ${b} ${units.length}`;
  }

  /** Says nothing about what the server thinks of the visitor. */
  function lost(reason) {
    return { code: 1006, reason, wasClean: false, inconclusive: true };
  }

  /** The fallback, like a WebSocket. EventSource would hide the status, and sets no headers. */
  function openStream(url, bearer, marks) {
    const reading = new AbortController();
    let posts = Promise.resolve();
    let posting = new AbortController();
    // Without the mark the gateway answers 200 in place of 503: a native EventSource would never come back.
    const marked = `${url}${url.includes('?') ? '&' : '?'}client=ws4redis`;
    const flags = [...new URL(url).searchParams.keys()];
    const hearsItself =
      !flags.includes('echo') &&
      flags.some((flag) => flag.startsWith('publish-') && flags.includes(flag.replace('publish', 'subscribe')));
    const self = {
      readyState: 0,
      pending: 0,
      close: () => reading.abort(),
      send(data) {
        const body = copyOf(data);
        const text = typeof body === 'string';
        const echo = text && hearsItself;
        const headers = {
          'Content-Type': text ? 'text/plain;charset=utf-8' : 'application/octet-stream',
          'X-WS4Redis': '1',
        };
        const mine = posting;
        let mark;
        // In order; those behind one that is not answered fail with it.
        const sent = posts
          .then(() => {
            if (echo && !mine.signal.aborted) mark = marks.add(keyOf(body), ATTEMPT_MS + ECHO_MS);
            const patience = setTimeout(() => {
              posting = new AbortController();
              mine.abort(new Error('the message was not taken: no answer'));
            }, ATTEMPT_MS);
            const done = () => clearTimeout(patience);
            return ask({ method: 'POST', headers, body, signal: mine.signal }).finally(done);
          })
          .then((response) => {
            // It may come back before the answer or behind it.
            if (mark) mark.until = response.ok ? Date.now() + ECHO_MS : 0;
            if (response.ok) return;
            throw new Error(`the message was not taken: HTTP ${response.status}`);
          });
        self.pending += 1;
        posts = sent.catch(() => {}).then(() => (self.pending -= 1));
        return sent;
      },
    };

    function ask(init, address = url) {
      const headers = Object.assign(bearer ? { Authorization: `Bearer ${bearer}` } : {}, init.headers);
      // Cookies as with WebSockets; a redirection leads to a page for people.
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
        if (kind === '') self.onmessage({ data });
        else if (kind === 'binary') self.onmessage({ data: bytesOf(data) });
        else if (kind === 'heartbeat') self.beat = data;
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

  /** The page may change a buffer before its turn comes. */
  function copyOf(data) {
    if (data?.byteLength >= 0) {
      return new Uint8Array(data.buffer ?? data, data.byteOffset ?? 0, data.byteLength).slice().buffer;
    }
    return data?.arrayBuffer ? data : `${data}`;
  }

  function bytesOf(base64) {
    return Uint8Array.from(atob(base64), (character) => character.charCodeAt(0)).buffer;
  }

  /** Parses pieces of an event stream (HTML standard, 9.2.6). A message has no name. */
  function eventParser(onEvent) {
    let line = '';
    let halfBreak = '';
    let kind = '';
    let data = [];
    return (piece) => {
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
