// Close codes: why a connection or an attempt ended, and whether another attempt can help.

/** A CloseEvent, or an ending that the client found out itself. */
export interface Ending {
  code: number;
  reason: string;
  wasClean: boolean;
  /** Says nothing about the gateway's decision on the visitor. */
  inconclusive?: boolean;
  /** Each further attempt would fail in the same way. */
  useless?: boolean;
  /** Milliseconds during which the gateway wants no attempt. */
  retryAfter?: number;
  /** What the constructor of WebSocket threw. */
  error?: unknown;
}

export const SESSION_ENDED = 4401;
/** Busy: all clients are told to come back later. */
export const TRY_AGAIN = 1013;

/** The ending of a connection that broke, or of an attempt without a decision by the gateway. */
export function lost(reason: string): Ending {
  return { code: 1006, reason, wasClean: false, inconclusive: true };
}

/** The ending of an attempt on which something was thrown. */
export const failed = (error: any, where = '') => lost(`${where}${error?.message ?? error}`);

/** 1008 and the gateway's other 44xx are decisions that another attempt would only repeat. */
export const isFinal = (code: number) => code === 1008 || Math.floor(code / 100) === 44;

/** All clients of the gateway, or of a proxy, got this close at the same time. */
export const isShared = (code: number) => [1001, 1012, TRY_AGAIN].includes(code);
