// Named sockets of the modern API in a page. Works with the pages of both browser drivers.
import { becomes } from './checks.mjs';

/**
 * Opens the socket `name` in a tab and waits for its state. The socket gets these lists: `received` (messages), `states`
 * (with the events `open` and `gap` as `+open` and `+gap`), `at` (states with times and delays), and `codes` and `reasons`
 * of closes. Its attempts use `tokens` one after the other.
 */
export async function open(tab, name, path, { tokens, ...options }, state = 'open') {
  const address = JSON.stringify(path.includes('/') ? path : `/ws/${path}`);
  const token = tokens ? `, token: async () => (window.tokens ??= ${JSON.stringify(tokens)}).shift() ?? null` : '';
  await watch(tab, name, `WS4Redis.connect(${address}, { ...${JSON.stringify(options)}${token} })`);
  await becomes(stateOf(tab, name), state, `state of ${name}`);
}

/** Records events of the socket that an expression in the page evaluates to. */
export async function watch(tab, name, expression) {
  await tab.evaluate(
    ([name, expression]) => {
      const socket = (window[name] = (0, eval)(expression));
      Object.assign(socket, { received: [], states: [], at: [], codes: [], reasons: [] });
      socket.addEventListener('message', ({ data }) =>
        socket.received.push(typeof data === 'string' ? data : [...new Uint8Array(data)]),
      );
      for (const type of ['open', 'gap']) socket.addEventListener(type, () => socket.states.push(`+${type}`));
      socket.addEventListener('state', ({ state, delay }) => {
        socket.states.push(state);
        socket.at.push({ state, delay, time: Date.now() });
      });
      socket.addEventListener('close', ({ code, reason }) => {
        socket.codes.push(code);
        socket.reasons.push(reason);
      });
    },
    [name, expression],
  );
}

const field = (what) => (tab, name) => () => tab.evaluate(([name, what]) => window[name][what], [name, what]);
export const received = field('received');
export const stateOf = field('state');
export const states = field('states');
export const transport = field('transport');
export const send = (tab, name, text) => tab.evaluate(([name, text]) => window[name].send(text), [name, text]);
