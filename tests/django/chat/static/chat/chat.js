'use strict';

// The page says in `chat` where it connects to, and with which flags.
const socket = WS4Redis.connect(chat.uri, { ...chat, queue: 20 });
const element = (id) => document.getElementById(id);
const STATES = {
  connecting: () => 'Connecting …',
  open: () => (socket.transport === 'sse' ? 'Connected by event stream' : 'Connected'),
  waiting: () => (navigator.onLine ? 'No connection; trying again soon' : 'No network'),
  'session-ended': () => 'Your session has ended',
  closed: () => 'Closed for good',
};

socket.addEventListener('state', ({ state }) => {
  document.body.dataset.state = state;
  element('state').textContent = STATES[state]();
  // It stays, though the connection comes back: as nobody's.
  if (state === 'session-ended') element('logged-out').hidden = false;
});

socket.addEventListener('transport', () => {
  element('state').textContent = STATES.open();
});

socket.addEventListener('close', ({ final, reason }) => {
  if (final && reason) element('failed').textContent = reason;
});

socket.addEventListener('message', ({ data }) => {
  const log = element('log');
  const atEnd = log.scrollHeight - log.scrollTop - log.clientHeight < 40;
  log.append(Object.assign(document.createElement('li'), { textContent: data }));
  // Who reads further up is left there.
  if (atEnd) log.scrollTop = log.scrollHeight;
});

async function post(form) {
  const response = await fetch(location.pathname, { method: 'POST', body: form });
  if (!response.ok) throw new Error(`Django answers ${response.status}`);
}

element('say').addEventListener('submit', async (event) => {
  event.preventDefault();
  const form = new FormData(event.target);
  const text = element('text');
  const said = text.value;
  element('failed').textContent = '';
  text.value = '';
  text.focus();
  try {
    await (chat.post ? post(form) : socket.send(said));
  } catch (error) {
    element('failed').textContent = `Not sent: ${error.message}`;
    text.value ||= said;
  }
});
