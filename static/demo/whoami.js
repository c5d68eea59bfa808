// The visitor's identity in the gateway's view, and the audiences that follow from it.
import { open } from './connections.js';
import { bounded, shown } from './messages.js';
import { base, byId, channel, copyable, duration, element, FACILITY, list, redisCli, shell } from './page.js';

const KNOWN_BY = { session: 'the cookie of a Django session', token: 'a token', callback: 'the answer of the site' };

const SETTINGS = `INSTALLED_APPS = [..., "ws4redis"]
# Behind AuthenticationMiddleware:
MIDDLEWARE = [..., "ws4redis.middleware.SessionMiddleware"]
CACHES = {"default": {
    "BACKEND": "django.core.cache.backends.redis.RedisCache",
    "LOCATION": "redis://localhost:6379/0",
}}
SESSION_ENGINE = "django.contrib.sessions.backends.cache"`;

const personalLine = copyable('redis-cli: to you alone');
let socket;
let known;

function fact(name, ...content) {
  document.querySelector(`[data-fact="${name}"]`).replaceChildren(...content);
}

function sessionOf({ session, expires_in: left }) {
  if (!session && left === null) return 'none';
  const what = session ? 'yes' : 'none, but what is known holds for a time';
  if (left === null) return `${what}, without an end`;
  const end = new Date(Date.now() + left * 1000).toLocaleString('en-GB', { dateStyle: 'medium', timeStyle: 'short' });
  return `${what}; ends in ${duration(left)}, ${end}`;
}

function channelsOf({ user, groups, session }) {
  // Names with a colon have no channels by default.
  const named = (names) => names.filter((name) => !name.includes(':'));
  return [
    channel('broadcast', FACILITY),
    ...named(groups).map((name) => channel('group', FACILITY, name)),
    ...named(user === null ? [] : [user]).map((name) => channel('user', FACILITY, name)),
    ...(session ? [channel('session', FACILITY, '…')] : []),
  ];
}

function show(profile) {
  const { logged_in: loggedIn, user, groups } = profile;
  if (user !== null) fact('user', element('strong', user));
  else fact('user', loggedIn ? 'logged in, but the session holds no name' : 'anonymous');
  fact('groups', list(groups) || 'none');
  fact('session', sessionOf(profile));
  fact('known-by', KNOWN_BY[profile.known_by] ?? 'nothing');
  fact('channels', ...channelsOf(profile).map((name) => element('code', name)));
  byId('personal').hidden = user === null;
  if (user !== null)
    personalLine.set(`${redisCli} PUBLISH ${shell(channel('user', FACILITY, user))} ${shell(`Only for ${user}`)}`);
}

function showFailure(reason) {
  for (const { dataset } of document.querySelectorAll('[data-fact]')) fact(dataset.fact, '–');
  fact('user', element('span', reason, 'error'));
  byId('personal').hidden = true;
}

async function ask() {
  let response;
  try {
    // With the connection's facility and flags, since the site's answer may depend on them.
    const { pathname, search } = new URL(socket.url);
    const question = `/whoami/${pathname.slice(base.length)}${search}`;
    response = await fetch(question, { cache: 'no-store', redirect: 'manual' });
  } catch {
    return showFailure('not known: the gateway cannot be reached');
  }
  if (!response.ok) return showFailure(`not known: ${(await response.text()).trim() || `HTTP ${response.status}`}`);
  const profile = await response.json();
  show(profile);
  // A connection keeps the identity that it was opened with: another login needs another connection.
  const now = JSON.stringify({ ...profile, expires_in: null });
  if (known !== undefined && known !== now) connect();
  known = now;
}

function connect() {
  socket?.close();
  const own = open('You', FACILITY, { subscribe: ['group', 'user', 'session'] });
  socket = own;
  own.addEventListener('message', ({ data }) => personal.add(shown(data)));
  own.addEventListener('state', ({ state }) => {
    if (socket === own && (state === 'session-ended' || state === 'open')) ask();
  });
}

const personal = bounded(byId('personal-messages'), 50);

export function startWhoami() {
  byId('become-settings').append(copyable('Django: settings.py', SETTINGS));
  byId('personal-cli').append(personalLine);
  for (const host of document.querySelectorAll('[data-host]')) host.textContent = location.hostname;
  byId('ask-again').addEventListener('click', ask);
  // The visitor may have logged in or out in another tab.
  document.addEventListener('visibilitychange', () => document.hidden || ask());
  connect();
}
