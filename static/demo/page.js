// Shared by all parts of the page: the gateway's settings, elements, times, snippets to copy.

export const AUDIENCES = ['broadcast', 'group', 'user', 'session'];
export const FACILITY = 'foobar';

/** The gateway fills these in; without it the placeholder remains. */
function setting(name, fallback) {
  const value = document.querySelector(`meta[name="${name}"]`)?.content ?? '';
  return value === '' || /^\{\{.*\}\}$/.test(value) ? fallback : value;
}

export const base = setting('websocket-url', '/ws/');
export const heartbeat = setting('heartbeat', null);
export const prefix = setting('prefix', '');
export const expire = Number(setting('expire', '3600'));
/** The path is empty if the gateway does not serve Socket.IO. */
export const socketIo = { path: setting('socketio-path', ''), channel: setting('socketio-channel', 'socketio') };

/** The command that reaches the gateway's Redis on its machine, with port and database. */
export const redisCli = setting('redis-cli', 'redis-cli');

/** The address of the documentation of this version; empty if there is none. */
const docs = setting('docs', '');

export const byId = (id) => document.getElementById(id);

export function element(tag, text, className) {
  const made = document.createElement(tag);
  if (text !== undefined) made.textContent = text;
  if (className) made.className = className;
  return made;
}

export function fromTemplate(id) {
  return byId(id).content.firstElementChild.cloneNode(true);
}

export function number(n) {
  return n.toLocaleString('en');
}

export function list(words) {
  return words.length > 1 ? `${words.slice(0, -1).join(', ')} and ${words.at(-1)}` : words.join('');
}

export function clock(date) {
  const two = (n) => String(n).padStart(2, '0');
  return (
    `${two(date.getHours())}:${two(date.getMinutes())}:${two(date.getSeconds())}` +
    `.${String(date.getMilliseconds()).padStart(3, '0')}`
  );
}

/** The time since a `performance.now()`, as text. */
export function since(start) {
  return `${number(Math.max(1, Math.round(performance.now() - start)))} ms`;
}

/** Seconds in the largest unit of which they are at least two, or exactly one. */
export function duration(seconds) {
  for (const [unit, length] of [
    ['day', 86400],
    ['hour', 3600],
    ['minute', 60],
    ['second', 1],
  ]) {
    const count = Math.floor(seconds / length);
    if (count >= 2 || (count === 1 && seconds % length === 0)) return `${number(count)} ${unit}${count > 1 ? 's' : ''}`;
  }
  return '0 seconds';
}

export function pathOf(facility) {
  return base + encodeURI(facility).replace(/[?#]/g, encodeURIComponent);
}

/** The Redis channel of an audience, which is also the key of its last value. */
export function channel(audience, facility, owner) {
  return [...(prefix ? [prefix] : []), audience, ...(owner === undefined ? [] : [owner]), facility].join(':');
}

export function shell(word) {
  return /^[\w.,:@%+=/-]+$/.test(word) ? word : `'${word.replace(/'/g, `'\\''`)}'`;
}

// ---- Snippets to copy

async function copy(text, code) {
  try {
    await navigator.clipboard.writeText(text);
    return true;
  } catch {
    // No clipboard API on plain http with a host name; the selection stays for Ctrl+C if this fails too.
    const selection = getSelection();
    selection.selectAllChildren(code);
    const done = document.execCommand('copy');
    if (done) selection.removeAllRanges();
    return done;
  }
}

/** A box of text with a button that copies it; `set` changes the text. */
export function copyable(title, text = '') {
  const box = element('div', undefined, 'copyable');
  const pre = element('pre');
  const code = element('code', text);
  const button = element('button', undefined, 'copy quiet');
  const verb = element('span', 'Copy');
  pre.tabIndex = 0;
  pre.setAttribute('role', 'group');
  pre.setAttribute('aria-label', title);
  button.type = 'button';
  button.append(verb, element('span', ` ${title}`, 'sr'));
  button.addEventListener('click', async () => {
    const done = await copy(code.textContent, code);
    verb.textContent = done ? 'Copied' : 'Press Ctrl+C';
    byId('copied').textContent = done ? `Copied: ${title}` : 'Selected, press Ctrl+C';
    setTimeout(() => {
      verb.textContent = 'Copy';
      byId('copied').textContent = '';
    }, 1500);
  });
  pre.append(code);
  box.append(pre, button);
  return Object.assign(box, { set: (lines) => (code.textContent = lines) });
}

// ---- The masthead

/** Names the documents, or links to them. */
export function showDocs() {
  for (const place of document.querySelectorAll('[data-doc]')) {
    const file = place.dataset.doc;
    const link = docs ? element('a', place.textContent) : element('code', `docs/${file}`);
    if (docs) link.href = docs + file;
    place.replaceChildren(link);
  }
}

/** Marks the section at the top of the window in the navigation, which is a row of tabs on a phone. */
export function watchTabs() {
  const tabs = new Map([...document.querySelectorAll('#tabs a')].map((tab) => [tab.hash.slice(1), tab]));
  const shown = new Set();
  const observer = new IntersectionObserver((entries) => {
    for (const { target, isIntersecting } of entries) shown[isIntersecting ? 'add' : 'delete'](target.id);
    // Above the first one is the masthead. On a wide screen the log is always in sight, and has no tab.
    const [first] = tabs.keys();
    const current = [...tabs.keys()].find((id) => shown.has(id) && tabs.get(id).offsetParent) ?? first;
    for (const [id, tab] of tabs) {
      if (id !== current) tab.removeAttribute('aria-current');
      else if (!tab.hasAttribute('aria-current')) {
        tab.setAttribute('aria-current', 'true');
        const row = tab.closest('ol');
        row.scrollTo({ left: tab.parentElement.offsetLeft - (row.clientWidth - tab.offsetWidth) / 2 });
      }
    }
  }, { rootMargin: '-20% 0px -70%' });
  for (const id of tabs.keys()) observer.observe(byId(id));
}

/** Dims the button of a form while nothing can be sent. It stays usable: a press tells why. */
export function showSendable(form, isSendable) {
  form.querySelector('[type="submit"]').setAttribute('aria-disabled', String(!isSendable));
}

/** Shows the outcome of a form below it; a failure in the colour of errors. */
export function tell(place, text, isError = false) {
  if (isError) place.dataset.kind = 'error';
  else delete place.dataset.kind;
  if (place.textContent !== text) place.textContent = text;
}
