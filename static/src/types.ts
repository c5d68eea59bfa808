/** Types of the modern API. A classic script defines no value of this name: pages may use it for their own. */
export declare namespace ws4redis {
  type Audience = 'broadcast' | 'group' | 'user' | 'session';

  /**
   * - `connecting`: an attempt is in progress
   * - `open`
   * - `waiting`: for the next attempt
   * - `session-ended`: waiting, because the session or the token has ended (4401)
   * - `closed`: permanently
   */
  type State = 'connecting' | 'open' | 'waiting' | 'session-ended' | 'closed';

  /** The transport in use; null while there is no connection. */
  type Transport = 'websocket' | 'sse' | null;

  interface Options {
    /** The audiences whose messages are received. */
    subscribe?: Audience | readonly Audience[];
    /** The audiences that `send` publishes to. */
    publish?: Audience | readonly Audience[];
    /** Receive own messages, too. */
    echo?: boolean;
    /** Called before each attempt; null means no token: the session then identifies the visitor, or nothing does. */
    token?: () => string | null | undefined | Promise<string | null | undefined>;
    /** The gateway's heartbeat text. Set it only if the gateway has the same one. */
    heartbeat?: string | null;
    /** Number of messages that `send` keeps while there is no connection. Default 0. */
    queue?: number;
    /** false: WebSockets only. Default true: server-sent events while no WebSocket can be opened. */
    fallback?: boolean;
    /** Closes the connection permanently. */
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
    /** A code of RFC 6455 or of the gateway; 1006 if the connection was refused or lost. */
    readonly code: number;
    readonly reason: string;
    readonly wasClean: boolean;
    /** No further attempt and no further event follows. */
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
    /** The connection has reopened: messages may have been missed. The replay of persisted messages follows. */
    gap: Event;
    close: Closed;
    state: StateChange;
    /** An open connection has switched from the fallback to a WebSocket. No message is missed. */
    transport: Event;
  }

  /** What the gateway knows of the visitor, for the page's author. */
  interface Identity {
    readonly user: string | null;
    readonly groups: readonly string[];
    /** Also true for a user whose name the gateway does not know. */
    readonly logged_in: boolean;
    readonly known_by: 'session' | 'token' | 'callback' | null;
    /** The browser has sent a session cookie. */
    readonly cookie: boolean;
    /** The gateway has found the session. */
    readonly session: boolean;
    /** Seconds until the identity expires. */
    readonly expires_in: number | null;
    /** The flags that are granted and refused; an audience alone is one to subscribe to. */
    readonly granted: readonly string[];
    readonly refused: readonly string[];
    /** What the page's author may not expect. */
    readonly advice: readonly string[];
  }

  interface Socket extends EventTarget, AsyncIterable<Data> {
    readonly url: string;
    readonly state: State;
    readonly transport: Transport;
    /** In development, that is with a gateway on localhost or a loopback address, soon after `open`; else null. */
    readonly identity: Identity | null;
    /**
     * Resolves when the message was handed to the browser's WebSocket, or accepted by the gateway (fallback). Rejects if
     * there is no connection and the queue is full, and if the gateway rejects the message (fallback).
     */
    send(data: Sendable): Promise<void>;
    sendJSON(value: unknown): Promise<void>;
    /** The messages from now on, parsed; throws at one that is not JSON. */
    json<T = unknown>(): AsyncGenerator<T, void, void>;
    /** The messages from now on. Ends with the connection. */
    [Symbol.asyncIterator](): AsyncGenerator<Data, void, void>;
    /** Closes the connection permanently. Leaves no timer and no listener behind. */
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

  /** Connects to the gateway and keeps the connection. `path` is e.g. `/ws/foobar`, relative to the page. */
  type Connect = (path: string | URL, options?: Options) => Socket;

  /** One socket for a whole page. */
  interface PageOptions {
    /** Called before each attempt; null means no token: the session then identifies the visitor, or nothing does. */
    token?: () => string | null | undefined | Promise<string | null | undefined>;
    /** Number of messages that each subscription keeps until it is subscribed. Default 0. */
    queue?: number;
    /** false: WebSockets only. Default true: a connection per facility while no WebSocket can be opened. */
    fallback?: boolean;
    /** Closes the connection permanently. */
    signal?: AbortSignal | null;
  }

  interface SubscribeOptions {
    /** The audiences whose messages are received. Default `broadcast`; `[]` for a facility that the page only publishes to. */
    subscribe?: Audience | readonly Audience[];
    /** The audiences that `send` may publish to. */
    publish?: Audience | readonly Audience[];
    /** Receive own messages, too. */
    echo?: boolean;
    /** Hear of users that join and leave. */
    presence?: boolean;
    /** Number of messages of the history to begin with. */
    last?: number;
    /** Where to continue: the ids of the last messages by audience, as `ids` had them. */
    since?: Ids;
  }

  /** The id of the last message of each audience, in facilities with a history. */
  type Ids = Readonly<Record<string, string>>;

  interface PublishOptions {
    /** Some of the audiences of `publish`. Default: all of them. */
    to?: Audience | readonly Audience[];
  }

  type Publishable = string | ArrayBuffer | ArrayBufferView;

  interface PageMessage extends Message {
    /** `broadcast`, `user`, `session` or `group:NAME`; undefined on a connection without pages. */
    readonly audience?: string;
    /** In facilities with a history. */
    readonly id?: string;
    /** The last message before the subscription, which the gateway has kept. */
    readonly last: boolean;
  }

  interface SubscribedEvent extends Event {
    /** What is granted: audiences to receive, `publish-` and an audience, `presence`. */
    readonly granted: readonly string[];
    readonly refused: readonly string[];
    /** Whether the history reaches back to where the last connection ended; undefined without a history. */
    readonly recovered?: boolean;
  }

  interface Here extends Event {
    readonly users: readonly string[];
    /** Number of visitors who are not logged in. */
    readonly anonymous: number;
  }

  interface SubscriptionEvents {
    message: PageMessage;
    /** The gateway has granted it, also after each reconnect. */
    subscribed: SubscribedEvent;
    /** The gateway does not grant it, with the code and the reason. It is asked again when the visitor changes. */
    refused: Event & { readonly code: number; readonly reason: string };
    /** Messages may have been missed: reload what the page shows. */
    gap: Event;
    here: Here;
    join: Event & { readonly user: string };
    leave: Event & { readonly user: string };
    /** It has ended, by `unsubscribe` or with the page. */
    close: Event;
  }

  /** One facility of a page. */
  interface Subscription extends EventTarget, AsyncIterable<Data> {
    readonly facility: string;
    readonly state: 'waiting' | 'subscribed' | 'refused' | 'closed';
    readonly granted: readonly string[];
    readonly refused: readonly string[];
    /** The users that are here, if `presence` is granted. */
    readonly users: readonly string[];
    readonly anonymous: number;
    /** Where it would continue. */
    readonly ids: Ids | undefined;
    /** Resolves when Redis has the message. Rejects if it is refused, or lost, or if nothing is subscribed and the queue is full. */
    send(data: Publishable, options?: PublishOptions): Promise<void>;
    sendJSON(value: unknown, options?: PublishOptions): Promise<void>;
    /** The messages from now on, parsed; throws at one that is not JSON. */
    json<T = unknown>(): AsyncGenerator<T, void, void>;
    /** The messages from now on. Ends with the subscription. */
    [Symbol.asyncIterator](): AsyncGenerator<Data, void, void>;
    /** Ends it, once it was called as often as `subscribe` for this facility. */
    unsubscribe(): void;

    addEventListener<K extends keyof SubscriptionEvents>(
      type: K,
      listener:
        | ((this: Subscription, event: SubscriptionEvents[K]) => unknown)
        | { handleEvent(event: SubscriptionEvents[K]): unknown }
        | null,
      options?: boolean | AddEventListenerOptions,
    ): void;
    addEventListener(
      type: string,
      listener: EventListenerOrEventListenerObject | null,
      options?: boolean | AddEventListenerOptions,
    ): void;
  }

  interface PageEvents {
    open: Event;
    close: Closed;
    state: StateChange;
    /** The visitor has logged in or out: the subscriptions were decided again. */
    user: Event & { readonly user: string | null };
  }

  /** One socket with several facilities. */
  interface Page extends EventTarget {
    readonly url: string;
    readonly state: State;
    /** The public id of the connection. */
    readonly id: string | null;
    /** The visitor's user name. */
    readonly user: string | null;
    /** As `identity` of a socket. The answer to a subscription has its flags, so `granted` and `refused` are empty. */
    readonly identity: Identity | null;
    /** Subscribes to a facility, or returns the subscription that the page has with the same options. */
    subscribe(facility: string, options?: SubscribeOptions): Subscription;
    /** Identifies the visitor by a token, on the open connection and after reconnects. */
    authenticate(token: string): Promise<void>;
    /** Closes the connection permanently. Leaves no timer and no listener behind. */
    close(): void;

    addEventListener<K extends keyof PageEvents>(
      type: K,
      listener: ((this: Page, event: PageEvents[K]) => unknown) | { handleEvent(event: PageEvents[K]): unknown } | null,
      options?: boolean | AddEventListenerOptions,
    ): void;
    addEventListener(
      type: string,
      listener: EventListenerOrEventListenerObject | null,
      options?: boolean | AddEventListenerOptions,
    ): void;
  }

  /** Opens one socket for the page. `path` is the gateway's prefix, e.g. `/ws/`. */
  type ConnectPage = (path: string | URL, options?: PageOptions) => Page;
}

/** The interface of django-websocket-redis. Works with and without `new`. */
export interface WS4Redis {
  /** Throws during the first attempt; after a close the message is dropped silently. */
  send_message(message: ws4redis.Sendable): void;
  /** 0 connecting, 1 open, 2 closing, 3 closed (also while waiting for the next attempt). */
  get_state(): number;
  is_connecting(): boolean;
  is_connected(): boolean;
  is_closing(): boolean;
  is_closed(): boolean;
  /** Closes the connection permanently. Leaves no timer behind. */
  close(): void;
}

export declare namespace WS4Redis {
  interface Options {
    /** The WebSocket address with facility and flags, used unchanged. */
    uri: string;
    /** Before each attempt to connect. */
    connecting?(): void;
    /** After each successful attempt. */
    connected?(): void;
    /** After each close and each failed attempt. */
    disconnected?(event: CloseEvent): void;
    /** For each message except heartbeats. */
    receive_message?(message: ws4redis.Data): void;
    /** After `disconnected`, if another attempt follows: milliseconds until then, its number since the last open. */
    reconnecting?(delay: number, attempt: number): void;
    /** The gateway's heartbeat text. Set it only if the gateway has the same one. */
    heartbeat_msg?: string | null;
  }

  interface Constructor {
    /** `$` may be jQuery, as in django-websocket-redis; it is not used. */
    new (options: Options, $?: unknown): WS4Redis;
    (options: Options, $?: unknown): WS4Redis;
    /** The modern API. */
    connect: ws4redis.Connect;
    /** One socket for a whole page. */
    page: ws4redis.ConnectPage;
    readonly prototype: WS4Redis;
  }
}
