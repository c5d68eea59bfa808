// The address of a facility with its flags.
import type { ws4redis } from './types';

const LOOPBACK = /^((.*\.)?localhost|127\.[\d.]+|\[::1\])$/;
export const AUDIENCES = ['broadcast', 'group', 'user', 'session'] as const;

/** Returns the WebSocket address of a path with flags. Throws for mistakes of the page, which the gateway would ignore. */
export function addressOf(path: string | URL, { subscribe, publish, echo }: ws4redis.Options): string {
  const page = globalThis.location?.href;
  if (!page && /^\//.test(path as string))
    throw new Error('ws4redis: a path needs a page. Connect in the browser only, for example in useEffect or onMounted');
  const url = new URL(path, page);
  if (url.hash) throw new SyntaxError('ws4redis: write # in a facility as %23');
  url.protocol = url.protocol.replace('http', 'ws');
  if (!/^wss?:/.test(url.protocol)) throw new SyntaxError(`ws4redis: ${url} is not a gateway address`);
  url.search = [
    url.search.slice(1),
    ...flagsOf('subscribe', subscribe),
    ...flagsOf('publish', publish),
    echo && 'echo',
  ]
    .filter(Boolean)
    .join('&');
  return url.href;
}

/** Returns the flags of a verb. Throws for an audience that does not exist. */
export function flagsOf(verb: string, audiences: ws4redis.Audience | readonly ws4redis.Audience[] = []): string[] {
  return ([] as ws4redis.Audience[]).concat(audiences).map((name) => {
    if (!AUDIENCES.includes(name)) throw new TypeError(`ws4redis: no audience ${name} to ${verb}`);
    return `${verb}-${name}`;
  });
}

/** Does not count hosts of this machine: the browser's knowledge of the network does not concern them. */
export function isRemote(url: string): boolean {
  return !LOOPBACK.test(new URL(url).hostname);
}

/** Whether the sender of a message is one of its receivers. The gateway suppresses that for WebSockets only. */
export function receivesOwn(url: string): boolean {
  const flags = new URL(url).searchParams;
  return (
    !flags.has('echo') && AUDIENCES.some((name) => flags.has(`publish-${name}`) && flags.has(`subscribe-${name}`))
  );
}
