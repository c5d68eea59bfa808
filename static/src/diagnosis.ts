// What the console is told, once for each connection: browsers hide from pages why a handshake was refused.
import { isRemote } from './address';
import type { Ending } from './codes';
import { marked, request } from './request';
import type { ws4redis } from './types';

/** Returns the visitor's identity as JSON, or the answer that a handshake would get. */
async function ask(url: string, bearer?: string | null): Promise<string> {
  const response = await request(marked(url.replace('ws', 'http')), bearer, { headers: { Accept: 'application/json' } });
  const text = await response.text();
  return text[0] === '{' ? text : `HTTP ${response.status} ${text[0] === '<' ? '' : text}`.trim();
}

/** Tells why the first attempt has failed. Asks local gateways only: others need no further requests. */
export async function explain(url: string, { reason, useless }: Ending, bearer?: string | null): Promise<void> {
  let why = reason;
  if (useless) why += '; is SECURE_PROXY_SSL_HEADER set?';
  else if (!/^HTTP |: /.test(reason)) {
    try {
      if (isRemote(url)) return;
      why = await ask(url, bearer);
      if (why[0] === '{') why = 'does a proxy drop Upgrade?';
    } catch {
      why = 'no answer';
    }
  }
  if (/^HTTP [0-4]\d*$/.test(why)) why = `no gateway here (${why})`;
  console.warn(`ws4redis: ${url.split('?')[0]}: ${why}`);
}

/** Sets what a local gateway knows of the visitor, and tells its advice. Never rejects. */
export async function identify(
  url: string,
  bearer: string | null | undefined,
  target: { identity: ws4redis.Identity | null },
): Promise<void> {
  try {
    target.identity = JSON.parse(await ask(url, bearer));
    for (const text of target.identity!.advice) console.info(`ws4redis: ${text}`);
  } catch {
    // An old gateway, or none.
  }
}
