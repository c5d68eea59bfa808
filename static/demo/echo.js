// One text from two connections in one room, of which only one wants to hear itself.
import { message, open, opened } from './line.js';
import { bounded, shown } from './messages.js';
import { byId, element, FACILITY, fromTemplate } from './page.js';

// Of this page alone, so that nothing is kept in it from before.
const ROOM = `${FACILITY}-echo-${Math.random().toString(36).slice(2, 8)}`;

function side(name, echo) {
  const box = fromTemplate('person');
  const [heading, messages, form] = box.children;
  form.remove();
  heading.textContent = name;
  box.dataset.echo = echo;
  messages.setAttribute('aria-label', `What is heard ${name.toLowerCase()}`);
  byId('echoes').append(box);
  const arrived = bounded(messages, 50);
  const underWay = new Set();
  let socket;

  return {
    /** Connects, when it is needed first. */
    ready() {
      if (!socket) {
        socket = open(name, ROOM, { subscribe: 'broadcast', publish: 'broadcast', echo });
        socket.addEventListener('message', ({ data }) => {
          // After a reconnect the kept message comes to everybody, whoever sent it.
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
  byId('both').addEventListener('submit', async (event) => {
    event.preventDefault();
    const { value } = byId('both-text');
    if (!value) return;
    // Who is not there yet would not hear the other.
    await Promise.all(sides.map((one) => one.ready()));
    for (const one of sides) one.send(value).catch(() => {});
  });
}
