// Snippets to copy that do the same as the page, in other places.
import { objection } from './address.js';
import { base, byId, channel, copyable, element, expire, FACILITY, heartbeat, pathOf, prefix, redisCli, shell, socketIo } from './page.js';

const CHAT = { facility: FACILITY, subscribe: ['broadcast'], publish: ['broadcast'], echo: true };
const OWNER = { group: 'GROUPNAME', user: 'USERNAME', session: 'SESSIONKEY' };
const HOUR = 3600;

/** A string literal that is valid in Python and in JavaScript. */
function quoted(text) {
  return `'${text.replace(/[\\']/g, '\\$&').replace(/[\u2028\u2029]/g, (c) => `\\u${c.charCodeAt(0).toString(16)}`)}'`;
}

function javascript({ facility, subscribe, publish, echo }) {
  const audiences = (names) => `[${names.map(quoted).join(', ')}]`;
  return [
    `const socket = WS4Redis.connect(${quoted(pathOf(facility))}, {`,
    ...(subscribe.length ? [`  subscribe: ${audiences(subscribe)},`] : []),
    ...(publish.length ? [`  publish: ${audiences(publish)},`] : []),
    ...(echo ? ['  echo: true,'] : []),
    ...(heartbeat ? [`  heartbeat: ${quoted(heartbeat)},`] : []),
    '});',
    ...(subscribe.length ? ["socket.addEventListener('message', ({ data }) => console.log(data));"] : []),
    ...(publish.length ? ["socket.addEventListener('open', () => socket.send('Hello'), { once: true });"] : []),
  ].join('\n');
}

function django({ facility, subscribe, publish }) {
  const names = subscribe.length ? subscribe : publish;
  const audience = {
    broadcast: 'broadcast=True',
    group: `groups=['${OWNER.group}']`,
    user: `users=['${OWNER.user}']`,
    session: `sessions=['${OWNER.session}']`,
  };
  return [
    'from ws4redis.publisher import RedisPublisher',
    'from ws4redis.redis_store import RedisMessage',
    '',
    ...(prefix ? [`# settings.py: WS4REDIS_PREFIX = ${quoted(prefix)}`] : []),
    `publisher = RedisPublisher(${[`facility=${quoted(facility)}`, ...names.map((name) => audience[name])].join(', ')})`,
    "publisher.publish_message(RedisMessage('Hello'))",
  ].join('\n');
}

function nginx() {
  // If it is behind a proxy, the page cannot know the address of the gateway.
  const listens = location.port ? `127.0.0.1:${location.port}` : '127.0.0.1:8000';
  const at = (path) => [
    `location ${path} {`,
    `    proxy_pass http://${listens};`,
    '    proxy_http_version 1.1;',
    '    proxy_set_header Upgrade $http_upgrade;',
    '    proxy_set_header Connection $connection_upgrade;',
    '    proxy_set_header Host $http_host;',
    '    proxy_read_timeout 5m;',
    '    proxy_buffering off;',
    '}',
  ];
  return [
    '# in http { }',
    'map $http_upgrade $connection_upgrade { default upgrade; "" close; }',
    '',
    '# in server { }',
    ...at(base),
    ...(socketIo.path ? at(socketIo.path) : []),
  ].join('\n');
}

function snippetsFor(wanted) {
  const { facility, subscribe, publish } = wanted;
  const channels = (names) => names.map((name) => shell(channel(name, facility, OWNER[name])));
  const each = (names, command) => channels(names).map(command).join('\n');
  return [
    {
      name: 'javascript',
      title: 'JavaScript',
      about: `In any page of ${location.host} that has <script src="/static/ws4redis.js">.`,
      code: javascript(wanted),
    },
    (subscribe.length || publish.length) && {
      name: 'django',
      title: 'Django',
      about: 'In a view, a task or a shell. Publishes, and persists the message for later visitors.',
      code: django(wanted),
    },
    subscribe.length && {
      name: 'redis-publish',
      title: 'redis-cli: to those connected now',
      about: 'PUBLISH reaches every connection that is subscribed at this moment.',
      code: each(subscribe, (name) => `${redisCli} PUBLISH ${name} Hello`),
    },
    subscribe.length && {
      name: 'redis-setex',
      title: 'redis-cli: to later visitors',
      about: 'A key with the name of the channel is sent to each connection that opens before it expires.',
      code: each(subscribe, (name) => `${redisCli} SETEX ${name} ${expire > 0 ? expire : HOUR} Hello`),
    },
    publish.length && {
      name: 'redis-subscribe',
      title: 'redis-cli: listen',
      about: 'Shows what this connection sends.',
      code: `${redisCli} SUBSCRIBE ${channels(publish).join(' ')}`,
    },
    {
      name: 'nginx',
      title: 'nginx',
      about: 'Puts the gateway under the host of your site. docs/deploy has whole files.',
      code: nginx(),
    },
  ].filter(Boolean);
}

/** Shows the snippets. Reuses boxes, since replacing one would lose the focus. */
function render(wanted) {
  const box = byId('snippet-list');
  const snippets = objection(wanted.facility) ? [] : snippetsFor(wanted);
  const shown = new Map([...box.children].map((child) => [child.dataset.name, child]));
  for (const [place, { name, title, about, code }] of snippets.entries()) {
    let made = shown.get(name);
    shown.delete(name);
    if (!made) {
      made = element('div', undefined, 'snippet');
      made.dataset.name = name;
      const words = element('div', undefined, 'about');
      words.append(element('h3', title), element('p', about));
      made.append(words, copyable(title));
    }
    made.lastElementChild.set(code);
    if (made !== box.children[place]) box.insertBefore(made, box.children[place] ?? null);
  }
  for (const gone of shown.values()) gone.remove();
}

/** @param {function(function(object): void): void} startAddress  Receives the function to call on changes. */
export function startSnippets(startAddress) {
  const [ofChat, ofAddress] = document.querySelectorAll('[name="which"]');
  let address = CHAT;
  const show = () => render(ofAddress.checked ? address : CHAT);
  ofChat.addEventListener('change', show);
  ofAddress.addEventListener('change', () => {
    byId('address').open = true;
    show();
  });
  startAddress((wanted) => {
    address = wanted;
    ofAddress.checked = true;
    show();
  });
  show();
}
