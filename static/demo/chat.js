// Two people in one facility, connected through Redis only.
import { open } from './connections.js';
import { bounded, shown } from './messages.js';
import {
  byId,
  channel,
  copyable,
  element,
  FACILITY,
  fromTemplate,
  list,
  redisCli,
  shell,
  showSendable,
  since,
  tell,
} from './page.js';

// Random, so that another tab most likely shows two other people.
const NAMES = ['Ada', 'Ben', 'Cleo', 'Dan', 'Eve', 'Finn', 'Grace', 'Hal', 'Ida', 'Jack', 'Kay', 'Linus'];
const REMEMBERED = 50;
const RETURN_TIMEOUT_MS = 3000;

const room = channel('broadcast', FACILITY);
const sent = new Map();

function remember(text) {
  sent.set(text, { at: performance.now(), receivers: [] });
  if (sent.size > REMEMBERED) sent.delete(sent.keys().next().value);
}

function showRoute(from, receivers) {
  const step = (text, className) => element('span', text, className);
  delete byId('route').dataset.kind;
  byId('route').replaceChildren(step(from), step(`Redis, ${room}`, 'redis'), step(list(receivers)));
}

function showLoss(from) {
  tell(
    byId('route'),
    `The message of ${from} has not come back: do the [[access]] rules allow you to publish and subscribe in ${FACILITY}?`,
    true,
  );
}

/** Returns whether a message is a person's own, as its text says. */
function isOf(name, data) {
  return typeof data === 'string' && data.startsWith(`${name}: `);
}

function person(name, announced) {
  const box = fromTemplate('person');
  const [heading, messages, form] = box.children;
  const input = form.elements.text;
  const arrived = bounded(messages);
  const socket = open(name, FACILITY, { subscribe: 'broadcast', publish: 'broadcast', echo: true });

  messages.classList.add('bubbles');
  box.setAttribute('aria-label', name);
  heading.textContent = name;
  input.id = `say-${name}`;
  input.placeholder = `Say something as ${name}`;
  form.firstElementChild.textContent = `Message from ${name}`;
  form.firstElementChild.htmlFor = input.id;
  messages.setAttribute('aria-label', `Messages to ${name}`);
  // Both receive the same messages.
  if (!announced) messages.setAttribute('aria-live', 'off');

  socket.addEventListener('message', ({ data }) => {
    const own = sent.get(data);
    const item = arrived.add(shown(data), ...(own ? [element('small', since(own.at), 'after')] : []));
    item.classList.add(isOf(name, data) ? 'own' : 'others');
    const receivers = own ? own.receivers : [];
    receivers.push(own ? `${name} after ${since(own.at)}` : name);
    // A replayed message after a reconnect is not an answer.
    if (receivers.length === 2) sent.delete(data);
    showRoute(own ? data.split(':')[0] : 'Somebody else', own ? receivers : ['everyone here']);
  });
  showSendable(form, false);
  socket.addEventListener('state', ({ state }) => {
    box.dataset.state = state;
    showSendable(form, state === 'open');
  });
  form.addEventListener('submit', async (event) => {
    event.preventDefault();
    if (!input.value) return;
    const text = `${name}: ${input.value}`;
    remember(text);
    try {
      await socket.send(text);
      input.value = '';
      setTimeout(() => sent.get(text)?.receivers.length === 0 && showLoss(name), RETURN_TIMEOUT_MS);
    } catch (error) {
      tell(byId('route'), `Not sent: ${error.message}.`, true);
    }
  });
  return box;
}

export function startChat() {
  const first = Math.floor(Math.random() * (NAMES.length / 2)) * 2;
  byId('people').append(...NAMES.slice(first, first + 2).map((name, place) => person(name, place === 0)));
  byId('chat-cli').append(copyable('redis-cli: say something in the chat', `${redisCli} PUBLISH ${shell(room)} Hello`));
}
