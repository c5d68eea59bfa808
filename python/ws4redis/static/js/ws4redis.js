/*! ws4redis.js: the browser client of the ws4redis gateway. MIT licence. */

/**
 * What `new WS4Redis(options)` takes. Every callback is optional.
 *
 * @typedef {object} WS4RedisOptions
 * @property {string} uri  The WebSocket address with facility and flags, used as it is, e.g.
 *   `wss://example.com/ws/foobar?subscribe-broadcast&publish-broadcast&echo`. Required.
 * @property {function(): void} [connecting]  Before each attempt to connect.
 * @property {function(): void} [connected]  After each successful attempt; from here on
 *   `send_message` may be called.
 * @property {function(CloseEvent): void} [disconnected]  After each close, failed attempts included.
 * @property {function((string|ArrayBuffer)): void} [receive_message]  For each message: text as a
 *   string, binary as an ArrayBuffer. Heartbeats are not passed on.
 * @property {function(number, number): void} [reconnecting]  After `disconnected`, when another
 *   attempt will follow: the milliseconds until then, and its number since the last open (1, 2 …).
 *   If it isn't called, the client has stopped.
 * @property {?string} [heartbeat_msg]  The gateway's heartbeat text. Set it only if the gateway has
 *   the same one: unanswered heartbeats close the connection after about 20 s.
 */

(function (global) {
  'use strict';

  const HEARTBEAT_MS = 5000;
  const MISSED_MAX = 3;
  const DELAY_MAX_S = 30;

  /**
   * A connection to the gateway that comes back after every close.
   *
   * Before the k-th attempt since the last open it waits for a random time in
   * [0, min(30, 2^k - 1)) seconds. It stops after `close()`, and after a close that says that
   * trying again is useless: code 1008 and the codes 4400 to 4499. After 4401 (the session has ended) it tries
   * once more, with the cookie the browser then has; if that attempt fails, or 4401 comes a second time, it stops.
   *
   * Works with and without `new`.
   *
   * @class
   * @param {WS4RedisOptions} options
   * @param {*} [$]  Accepted for pages that hand in jQuery; not needed and not used.
   * @throws {Error} without `options.uri`
   * @throws {DOMException} if `options.uri` is no WebSocket address
   */
  function WS4Redis(options, $) {
    if (!(this instanceof WS4Redis)) return new WS4Redis(options, $);
    if (!options || !options.uri) throw new Error('WS4Redis: options.uri is missing');

    const opts = Object.assign({}, options);
    let socket = null;
    let attempt = 1;
    let retryTimer = null;
    let beatTimer = null;
    let missed = 0;
    let stopped = false;
    let sessionEnded = false;
    let lastChance = false;

    function call(name, ...args) {
      if (typeof opts[name] === 'function') opts[name](...args);
    }

    function connect() {
      retryTimer = null;
      call('connecting');
      if (stopped) return;
      socket = new WebSocket(opts.uri);
      // Blobs are read asynchronously, which would mix up the order of messages.
      socket.binaryType = 'arraybuffer';
      socket.onopen = onOpen;
      socket.onmessage = onMessage;
      socket.onclose = onClose;
    }

    function onOpen() {
      attempt = 1;
      lastChance = false;
      if (opts.heartbeat_msg) {
        missed = 0;
        beatTimer = setInterval(beat, HEARTBEAT_MS);
      }
      call('connected');
    }

    function onMessage(event) {
      if (opts.heartbeat_msg && event.data === opts.heartbeat_msg) {
        missed = 0;
      } else {
        call('receive_message', event.data);
      }
    }

    function onClose(event) {
      stopHeartbeat();
      let delay = 0;
      // The timer is set before the callbacks run: one that throws must not end the reconnecting, and one that calls
      // close() must find the timer.
      if (!stopped && isWorthRetrying(event.code)) {
        delay = Math.random() * Math.min(DELAY_MAX_S, 2 ** attempt - 1) * 1000;
        retryTimer = setTimeout(connect, delay);
        attempt += 1;
      } else {
        stopped = true;
      }
      call('disconnected', event);
      if (!stopped) call('reconnecting', delay, attempt - 1);
    }

    function isWorthRetrying(code) {
      if (code === 4401 && !sessionEnded) {
        sessionEnded = lastChance = true;
        return true;
      }
      // Browsers show a refused handshake as 1006, so the attempt after 4401 is judged by whether it opened at all.
      return !lastChance && code !== 1008 && !(code >= 4400 && code <= 4499);
    }

    function beat() {
      missed += 1;
      if (missed > MISSED_MAX) {
        stopHeartbeat();
        socket.close();
      } else {
        socket.send(opts.heartbeat_msg);
      }
    }

    function stopHeartbeat() {
      clearInterval(beatTimer);
      beatTimer = null;
    }

    /**
     * Sends a message on all channels of the publish flags.
     * @param {string|Blob|ArrayBuffer|ArrayBufferView} message
     * @throws {DOMException} InvalidStateError while the first attempt is under way; after a close
     *   the message is dropped without a word, as by `WebSocket.send`
     */
    this.send_message = function (message) {
      socket.send(message);
    };

    /**
     * The socket's readyState: 0 connecting, 1 open, 2 closing, 3 closed (also while waiting for
     * the next attempt).
     * @returns {number}
     */
    this.get_state = function () {
      return socket.readyState;
    };

    /** @returns {boolean} whether the socket is connecting */
    this.is_connecting = function () {
      return socket.readyState === 0;
    };

    /** @returns {boolean} whether the socket is open */
    this.is_connected = function () {
      return socket.readyState === 1;
    };

    /** @returns {boolean} whether the socket is closing */
    this.is_closing = function () {
      return socket.readyState === 2;
    };

    /** @returns {boolean} whether the socket is closed */
    this.is_closed = function () {
      return socket.readyState === 3;
    };

    /** Closes the connection for good. No timer is left behind. */
    this.close = function () {
      stopped = true;
      clearTimeout(retryTimer);
      retryTimer = null;
      stopHeartbeat();
      socket.close();
    };

    connect();
  }

  global.WS4Redis = WS4Redis;
})(globalThis);
