// What static/ws4redis.js declares in a page: the value WS4Redis, and types. docs/javascript.md has the rules.

/** Types of the modern API. In a page there is no value of this name: it is free for the page's own. */
declare namespace ws4redis {
  type Audience = 'broadcast' | 'group' | 'user' | 'session';

  /**
   * - `connecting`: an attempt is under way
   * - `open`
   * - `waiting`: for the next attempt
   * - `session-ended`: the same, because the session or the token has ended (4401)
   * - `closed`: for good
   */
  type State = 'connecting' | 'open' | 'waiting' | 'session-ended' | 'closed';

  /** What messages travel by; null while there is no connection. */
  type Transport = 'websocket' | 'sse' | null;

  interface Options {
    /** Whose messages are heard. */
    subscribe?: Audience | readonly Audience[];
    /** To whom `send` goes. */
    publish?: Audience | readonly Audience[];
    /** Own messages come back, too. */
    echo?: boolean;
    /** Asked for a token before each attempt; without one (null) the visitor is known by the session, or nobody. */
    token?: () => string | null | undefined | Promise<string | null | undefined>;
    /** The gateway's heartbeat text. Set it only if the gateway has the same one. */
    heartbeat?: string | null;
    /** How many messages `send` keeps while there is no connection. Default 0. */
    queue?: number;
    /** false: WebSockets only. Default true: server-sent events while no WebSocket comes through. */
    fallback?: boolean;
    /** Closes the connection for good. */
    signal?: AbortSignal | null;
  }

  type Data = string | ArrayBuffer;
  type Sendable = string | Blob | ArrayBuffer | ArrayBufferView;

  interface Message extends MessageEvent<Data> {
    /** The data parsed as JSON; throws SyntaxError. */
    json<T = unknown>(): T;
  }

  /** A connection or an attempt has ended. */
  interface Closed extends Event {
    /** RFC 6455's, or the gateway's; 1006 for what was refused or lost. */
    readonly code: number;
    readonly reason: string;
    readonly wasClean: boolean;
    /** Nothing will follow. */
    readonly final: boolean;
  }

  interface StateChange extends Event {
    readonly state: State;
    /** Milliseconds until the next attempt, for `waiting` and `session-ended`; shorter when the network or tab returns. */
    readonly delay?: number;
  }

  interface Events {
    message: Message;
    open: Event;
    /** It is open again: messages may have been missed. The replay of persisted messages follows. */
    gap: Event;
    close: Closed;
    state: StateChange;
    /** An open connection has changed over from the fallback to a WebSocket. No message is missed. */
    transport: Event;
  }

  interface Socket extends EventTarget, AsyncIterable<Data> {
    readonly url: string;
    readonly state: State;
    readonly transport: Transport;
    /**
     * Resolves when the message was handed to the browser's WebSocket, or taken by the gateway (fallback). Rejects if
     * there is no connection and no place in the queue, and if the gateway does not take it (fallback).
     */
    send(data: Sendable): Promise<void>;
    sendJSON(value: unknown): Promise<void>;
    /** The messages from here on, parsed; throws at one that is not JSON. */
    json<T = unknown>(): AsyncGenerator<T, void, void>;
    /** The messages from here on. Ends with the connection. */
    [Symbol.asyncIterator](): AsyncGenerator<Data, void, void>;
    /** Closes it for good. No timer and no listener is left behind. */
    close(): void;

    addEventListener<K extends keyof Events>(
      type: K,
      listener: ((this: Socket, event: Events[K]) => unknown) | { handleEvent(event: Events[K]): unknown } | null,
      options?: boolean | AddEventListenerOptions,
    ): void;
    addEventListener(
      type: string,
      listener: EventListenerOrEventListenerObject | null,
      options?: boolean | AddEventListenerOptions,
    ): void;
    removeEventListener<K extends keyof Events>(
      type: K,
      listener: ((this: Socket, event: Events[K]) => unknown) | { handleEvent(event: Events[K]): unknown } | null,
      options?: boolean | EventListenerOptions,
    ): void;
    removeEventListener(
      type: string,
      listener: EventListenerOrEventListenerObject | null,
      options?: boolean | EventListenerOptions,
    ): void;
  }
}

/** The interface of django-websocket-redis. Works with and without `new`. */
interface WS4Redis {
  /** Throws while the first attempt is under way; after a close the message is dropped without a word. */
  send_message(message: ws4redis.Sendable): void;
  /** 0 connecting, 1 open, 2 closing, 3 closed (also while waiting for the next attempt). */
  get_state(): number;
  is_connecting(): boolean;
  is_connected(): boolean;
  is_closing(): boolean;
  is_closed(): boolean;
  /** Closes the connection for good. No timer is left behind. */
  close(): void;
}

declare namespace WS4Redis {
  interface Options {
    /** The WebSocket address with facility and flags, used as it is. */
    uri: string;
    /** Before each attempt to connect. */
    connecting?(): void;
    /** After each successful attempt. */
    connected?(): void;
    /** After each close, failed attempts included. */
    disconnected?(event: CloseEvent): void;
    /** For each message but heartbeats. */
    receive_message?(message: ws4redis.Data): void;
    /** After `disconnected`, when another attempt follows: milliseconds until then, its number since the last open. */
    reconnecting?(delay: number, attempt: number): void;
    /** The gateway's heartbeat text. Set it only if the gateway has the same one. */
    heartbeat_msg?: string | null;
  }
}

/** jQuery may be handed in, as to django-websocket-redis; it is not used. */
declare var WS4Redis: {
  new (options: WS4Redis.Options, $?: unknown): WS4Redis;
  (options: WS4Redis.Options, $?: unknown): WS4Redis;
  /** The modern API: opens a connection to the gateway that the page came from, and keeps it. */
  connect(path: string | URL, options?: ws4redis.Options): ws4redis.Socket;
  readonly prototype: WS4Redis;
};
