/// <reference path="./ws4redis.d.ts" />

// What ws4redis.mjs exports: the names and types of ws4redis.js, and WS4Redis.connect as ws4redis.
import types = ws4redis;
import legacy = WS4Redis;

/** Opens a connection to the gateway that the page came from, and keeps it. `path` is e.g. `/ws/foobar`. */
declare function modern(path: string | URL, options?: types.Options): types.Socket;

declare namespace modern {
  type Audience = types.Audience;
  type State = types.State;
  type Transport = types.Transport;
  type Options = types.Options;
  type Data = types.Data;
  type Sendable = types.Sendable;
  type Message = types.Message;
  type Closed = types.Closed;
  type StateChange = types.StateChange;
  type Events = types.Events;
  type Socket = types.Socket;
}

export { modern as ws4redis, legacy as WS4Redis, modern as default };
