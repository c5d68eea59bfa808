// How long to wait before the next attempt.
import { type Ending, isShared } from './codes';

const DELAY_MAX_MS = 30000;
const SPREAD_MS = 10000;
const SPREAD_FROM_MS = 1000;
const OFFLINE_MS = 15000;

/**
 * Milliseconds before the given attempt. By upstream's rule that is a random time below 1, 3, 7, 15, then 30 s. With
 * `modern`, clients that lost their connections at the same time come back spread over at least 10 s.
 */
export function delayOf(attempt: number, { code, retryAfter = 0 }: Ending, modern?: boolean, offline?: boolean): number {
  let from = 0;
  let to = Math.min(DELAY_MAX_MS, (2 ** attempt - 1) * 1000);
  if (modern && isShared(code)) {
    from = SPREAD_FROM_MS;
    to = Math.max(to, SPREAD_MS);
  }
  if (offline) {
    from = OFFLINE_MS;
    to = 2 * OFFLINE_MS;
  }
  return Math.max(from + Math.random() * (to - from), retryAfter);
}
