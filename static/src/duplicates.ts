// Messages to leave out once, for a limited time: own ones that come back, and those that another transport delivered.
import { fingerprint } from './payload';
import type { ws4redis } from './types';

export const ECHO_MS = 5000;

export interface Expected {
  key: string;
  until: number;
}

export function createDuplicateFilter() {
  let expected: Expected[] = [];
  return {
    expect(key: string, ms = ECHO_MS): Expected {
      const entry = { key, until: Date.now() + ms };
      expected.push(entry);
      return entry;
    },
    /** Removes the matching entry, if any, and returns whether there was one. */
    takeMatch(data: ws4redis.Data): boolean {
      expected = expected.filter(({ until }) => until > Date.now());
      // Most messages arrive while nothing is expected: spare them the fingerprint.
      const key = expected.length && fingerprint(data);
      const at = expected.findIndex((entry) => entry.key === key);
      return at >= 0 && !!expected.splice(at, 1);
    },
  };
}

export type DuplicateFilter = ReturnType<typeof createDuplicateFilter>;
