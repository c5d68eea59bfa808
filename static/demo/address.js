// A connection to any facility with any flags.
import { open } from './connections.js';
import { bounded, shown } from './messages.js';
import { AUDIENCES, byId, element, fromTemplate, heartbeat, list, number, pathOf, showSendable, tell } from './page.js';

const MOST = 200;

/** The reason why the facility is invalid, or an empty string. */
export function objection(facility) {
  if (/[\u0000-\u001f\u007f]/.test(facility)) return 'Control characters are not allowed in a facility.';
  if (facility.split('/').some((part) => /^(\.|%2e){1,2}$/i.test(part)))
    return 'Browsers resolve “.” and “..” before they ask, so they cannot be part of a facility here.';
  try {
    encodeURI(facility);
  } catch {
    return 'This facility is not valid Unicode.';
  }
  return '';
}

function hintFor({ facility, subscribe, publish }) {
  const owned = AUDIENCES.filter(
    (name) => name !== 'broadcast' && (subscribe.includes(name) || publish.includes(name)),
  );
  if (owned.length && facility.includes(':')) return 'A facility with a colon gets its broadcast channel only.';
  if (owned.length) return `${list(owned)}: for whom they belong to; anonymous visitors get no such channel.`;
  if (!subscribe.length && !publish.length) return 'Without flags the connection is open and idle.';
  return '';
}

/**
 * Sets the part of the page up; it connects when it is unfolded first.
 * @param {function(object): void} onChange  Gets facility, flags and echo after each change.
 */
export function startAddress(onChange) {
  const details = byId('address');
  const pane = fromTemplate('address-form');
  const $ = (selector) => pane.querySelector(selector);
  const settings = $('.settings');
  const sendForm = $('.send');
  const field = sendForm.elements.message;
  const arrived = bounded($('.messages'), MOST);
  let socket = null;
  let connected = '';
  let room = '';
  let total = 0;

  for (const verb of ['subscribe', 'publish']) {
    const row = element('tr');
    const head = element('th', verb);
    head.scope = 'row';
    row.append(head);
    for (const name of AUDIENCES) {
      const box = element('input');
      box.type = 'checkbox';
      box.name = `${verb}-${name}`;
      box.checked = name === 'broadcast';
      const label = element('label');
      label.append(box, element('span', box.name, 'sr'));
      const cell = element('td');
      cell.append(label);
      row.append(cell);
    }
    $('tbody').append(row);
  }

  function wanted() {
    const on = (verb) => AUDIENCES.filter((name) => settings.elements[`${verb}-${name}`].checked);
    const { facility, echo } = settings.elements;
    return { facility: facility.value, subscribe: on('subscribe'), publish: on('publish'), echo: echo.checked };
  }

  function show() {
    const now = wanted();
    const refused = objection(now.facility);
    settings.elements.facility.setAttribute('aria-invalid', String(refused !== ''));
    const hint = refused || hintFor(now);
    if ($('.flag-hint').textContent !== hint) $('.flag-hint').textContent = hint;
    const { pathname, search } = refused ? { pathname: '', search: '' } : addressOf(now);
    $('.uri code').textContent = pathname + search;
    const isOpen = socket?.state === 'open';
    pane.dataset.state = socket ? socket.state : 'closed';
    $('.toggle').textContent = socket && socket.state !== 'closed' ? 'Disconnect' : 'Connect';
    field.readOnly = !isOpen || !now.publish.length;
    let reason = '';
    if (!now.publish.length)
      reason = 'Tick a publish flag to send: without one the gateway ignores what a client sends.';
    else if (!isOpen) reason = 'Sending is possible while the connection is open.';
    showSendable(sendForm, reason === '');
    tell($('.send-hint'), reason);
  }

  function addressOf({ facility, subscribe, publish, echo }) {
    const flags = [...subscribe.map((name) => `subscribe-${name}`), ...publish.map((name) => `publish-${name}`)];
    if (echo) flags.push('echo');
    return new URL(pathOf(facility) + (flags.length ? `?${flags.join('&')}` : ''), location.href);
  }

  function disconnect() {
    const old = socket;
    socket = null;
    connected = '';
    old?.close();
  }

  function connect() {
    disconnect();
    const now = wanted();
    if (!objection(now.facility)) {
      if (now.facility !== room) clear();
      room = now.facility;
      connected = addressOf(now).href;
      const own = open('Address', now.facility, now);
      socket = own;
      own.addEventListener('message', ({ data }) => {
        if (socket !== own) return;
        total += 1;
        arrived.add(shown(data));
        showCount();
      });
      own.addEventListener('state', () => socket === own && show());
    }
    show();
  }

  function clear() {
    arrived.clear();
    total = 0;
    showCount();
  }

  function showCount() {
    $('.count').textContent = total > MOST ? `${number(total)}, the last ${MOST} kept` : total > 0 ? number(total) : '';
    $('.clear').hidden = total === 0;
  }

  function apply() {
    const now = wanted();
    if (objection(now.facility) || addressOf(now).href !== connected) connect();
    onChange(now);
  }

  async function send() {
    const text = field.value;
    const { subscribe, publish, echo } = wanted();
    if (field.readOnly) return tell($('.send-hint'), `Not sent: ${publish.length ? 'there is no connection' : 'tick a publish flag first'}.`, true);
    let note = '';
    if (text === '') note = 'An empty message is not relayed.';
    else if (text === heartbeat) note = 'This text is the heartbeat, which is not relayed.';
    else {
      try {
        await socket.send(text);
        field.value = '';
        if (!publish.some((name) => subscribe.includes(name)))
          note = 'Sent. It does not come back, as this connection does not subscribe to where it publishes.';
        else if (!echo) note = 'Sent. It does not come back, as echo is off.';
      } catch (error) {
        return tell($('.send-hint'), `Not sent: ${error.message}.`, true);
      }
    }
    tell($('.send-hint'), note);
  }

  settings.addEventListener('change', apply);
  settings.elements.facility.addEventListener('input', () => {
    show();
    onChange(wanted());
  });
  settings.addEventListener('submit', (event) => {
    event.preventDefault();
    apply();
  });
  $('.toggle').addEventListener('click', () => {
    if (!socket || socket.state === 'closed') return connect();
    disconnect();
    show();
  });
  $('.clear').addEventListener('click', () => {
    clear();
    $('.messages').focus();
  });
  sendForm.addEventListener('submit', (event) => {
    event.preventDefault();
    send();
  });
  details.addEventListener('toggle', apply, { once: true });
  byId('address-pane').append(pane);
  clear();
  show();
}
