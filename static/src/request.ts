// HTTP requests to the gateway.

/** Marks the client: without it the gateway answers streams with 200 instead of 503, as a native EventSource needs. */
export const marked = (url: string) => `${url}${url.includes('?') ? '&' : '?'}client=ws4redis`;

/** Sends cookies as with WebSockets. A redirection leads to a page for people. */
export function request(address: string, bearer: string | null | undefined, init: RequestInit): Promise<Response> {
  const headers = { ...(bearer && { Authorization: `Bearer ${bearer}` }), ...init.headers };
  return fetch(address, { ...init, headers, credentials: 'include', cache: 'no-store', redirect: 'manual' });
}
