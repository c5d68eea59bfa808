// One text from two connections to one facility; only one of them has the flag `echo`.
import { message, open, opened } from './connections.js';
import { watchReachable } from './log.js';
import { bounded, shown } from './messages.js';
import { byId, element, FACILITY, fromTemplate, showSendable, tell } from './page.js';

// Unique to this page, so that no earlier message is replayed.
const ROOM = `${FACILITY}-echo-${Math.random().toString(36).slice(2, 8)}`;

function side(name, echo) {
  const box = fromTemplate('person');
  const [heading, messages, form] = box.children;
  form.remove();
  heading.textContent = name;
  box.dataset.echo = echo;
  messages.setAttribute('aria-label', `Messages received ${name.toLowerCase()}`);
  byId('echoes').append(box);
  const arrived = bounded(messages, 50);
  const underWay = new Set();
  let socket;

  return {
    /** Connects on first use. */
    ready() {
      if (!socket) {
        socket = open(name, ROOM, { subscribe: 'broadcast', publish: 'broadcast', echo });
        socket.addEventListener('message', ({ data }) => {
          // After a reconnect the persisted message is replayed to its sender, too.
          const kept = typeof data === 'string' && data.startsWith(`${name}: `) ? 'own, kept' : '';
          const mark = underWay.delete(data) ? 'own' : kept;
          arrived.add(shown(data), ...(mark ? [element('small', mark, 'after')] : []));
        });
      }
      return opened(socket);
    },
    async send(text) {
      const own = `${name}: ${text}`;
      underWay.add(own);
      const back = message(socket, (data) => data === own, 700);
      await socket.send(own);
      if ((await back) === undefined && underWay.delete(own))
        arrived.add(element('span', 'Its own text did not come back.', 'text absent'));
    },
  };
}

export function startEcho() {
  const sides = [side('With echo', true), side('Without echo', false)];
  const outcome = byId('both-outcome');
  let canSend = false;
  watchReachable((isReachable) => {
    canSend = isReachable;
    showSendable(byId('both'), canSend);
    if (canSend) tell(outcome, '');
  });
  byId('both').addEventListener('submit', async (event) => {
    event.preventDefault();
    const { value } = byId('both-text');
    if (!value) return;
    if (!canSend) return tell(outcome, 'Not sent: there is no connection.', true);
    // A connection that is not open yet would miss the other's message.
    await Promise.all(sides.map((one) => one.ready()));
    for (const one of sides) one.send(value).catch(() => {});
  });
}
