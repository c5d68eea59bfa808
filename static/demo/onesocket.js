// One socket for two facilities: history, gap and presence, and a switch that cuts the line of this socket only.
import '../ws4redis.js';
import { follow, note, track } from './log.js';
import { bounded, shown } from './messages.js';
import { base, byId, copyable, element, FACILITY, fromTemplate, list, number, showSendable, tell } from './page.js';

const KEPT = `${FACILITY}-history`;
const UNKEPT = `${FACILITY}-plain`;
const LAST = 20;
/** The gateway sends the messages of a history at once, behind the answer to the subscription. */
const REPLAY_MS = 400;
const PRESENCE_MS = 3000;
const NAME = 'One socket';

const HISTORY_RULE = `[[history]]
facility = ["${KEPT}"]`;
const PRESENCE_RULES = `[[presence]]
facility = ["${KEPT}"]

# The default rights, and presence.
# Add "presence" to your own [[access]] tables instead, if there are any.
[[access]]
facility = ["*"]
anonymous = ["*", "presence"]
users = ["*", "presence"]`;

const settings = copyable('Settings for history and presence');
let page;
let isCut = false;
let socket;

/** Other connections of the tab keep their lines. */
function installSwitch() {
  const Native = WebSocket;
  globalThis.WebSocket = class extends Native {
    constructor(url, protocols = []) {
      const isOwn = protocols.includes('ws4redis.2');
      if (isOwn && isCut) throw new DOMException('the line is cut', 'NetworkError');
      super(url, protocols);
      if (isOwn) socket = this;
    }
  };
}

function setLine(cut) {
  isCut = cut;
  note(NAME, cut ? 'the line is cut' : 'the line is restored');
  if (cut) socket?.close();
  // Like a tab that is shown again: the client does not wait until its next attempt is due.
  else if (page.state === 'waiting') document.dispatchEvent(new Event('visibilitychange'));
  tell(byId('one-socket-sent'), '');
  showState();
}

function fact(name, text) {
  const field = document.querySelector(`[data-fact="${name}"]`);
  // Screen readers announce each replacement.
  if (field.textContent !== text) field.textContent = text;
}

function showState() {
  const states = { open: 'open: two facilities', waiting: 'waiting for the next attempt', connecting: 'connecting' };
  showSendable(byId('to-both'), page.state === 'open' && !isCut);
  fact('one-socket', isCut ? 'cut' : (states[page.state] ?? `${page.state}: see the log`));
}

function counted(count, what) {
  return `${number(count)} ${what}${count === 1 ? '' : 's'}`;
}

function visitors({ users, anonymous }) {
  return list([...users, ...(anonymous || !users.length ? [counted(anonymous, 'anonymous visitor')] : [])]);
}

/** Lists the messages of a facility, and what its subscription says about lost ones. */
function pane(subscription) {
  const box = fromTemplate('person');
  const [heading, messages, form] = box.children;
  form.remove();
  const kind = element('small');
  heading.append(`${subscription.facility} `, kind);
  messages.setAttribute('aria-label', `Messages of ${subscription.facility}`);
  byId('facilities').append(box);
  const arrived = bounded(messages, 100);
  const say = (what, text) => arrived.add(element('b', what), element('span', text, 'text'));
  let isFirst = true;
  let replayed = null;
  let mark = '';

  subscription.addEventListener('subscribed', ({ recovered }) => {
    const count = { messages: 0 };
    replayed = count;
    mark = isFirst ? 'from the history' : 'recovered';
    isFirst = false;
    setTimeout(() => {
      if (replayed === count) replayed = null;
      kind.textContent = subscription.ids ? 'with a history' : 'without a history';
      const { messages } = count;
      if (recovered) say('recovered:', `${counted(messages, 'message')} sent meanwhile`);
    }, REPLAY_MS);
  });
  subscription.addEventListener('message', ({ data, id, last }) => {
    const isReplayed = replayed !== null && id !== undefined;
    if (isReplayed) replayed.messages += 1;
    const origin = last ? 'the last value' : isReplayed ? mark : '';
    arrived.add(shown(data), ...(origin ? [element('small', origin, 'after')] : []));
  });
  subscription.addEventListener('gap', () => say('gap:', 'messages may have been missed'));
  subscription.addEventListener('refused', ({ code, reason }) => (say('refused:', `${code} ${reason}`).dataset.kind = 'error'));
  for (const [type, verb] of [['join', 'is here'], ['leave', 'has left']])
    subscription.addEventListener(type, ({ user }) => say(user, verb));
}

/** Shows who is here, and which settings are missing for that and for a history. */
function watchRules(kept) {
  let timer;
  let isCounted = false;
  const showVisitors = () => {
    isCounted = true;
    fact('here', visitors(kept));
  };
  for (const type of ['here', 'join', 'leave']) kept.addEventListener(type, showVisitors);
  kept.addEventListener('subscribed', () => {
    clearTimeout(timer);
    isCounted = false;
    timer = setTimeout(() => {
      const isGranted = kept.granted.includes('presence');
      if (!isGranted) fact('here', 'not known: see the settings below');
      showMissing(!kept.ids, !isGranted);
      timer = setTimeout(() => {
        if (isGranted && !isCounted) fact('here', 'not known: the embedded store does not count visitors');
      }, PRESENCE_MS);
    }, REPLAY_MS);
  });
  kept.addEventListener('refused', () => {
    fact('here', 'not known: the facility is refused');
    showMissing(!kept.ids, true);
  });
  page.addEventListener('close', () => {
    clearTimeout(timer);
    fact('here', 'not known: there is no connection');
  });
}

function showMissing(noHistory, noPresence) {
  byId('one-socket-off').hidden = !noHistory && !noPresence;
  const missing = [...(noHistory ? ['no history'] : []), ...(noPresence ? ['no presence'] : [])];
  byId('one-socket-missing').textContent = missing.join(' and ');
  settings.set([...(noHistory ? [HISTORY_RULE] : []), ...(noPresence ? [PRESENCE_RULES] : [])].join('\n\n'));
  byId('one-socket-presence').hidden = !noPresence;
}

async function publish(subscriptions, text) {
  const line = byId('one-socket-sent');
  const outcomes = await Promise.allSettled(subscriptions.map((one) => one.send(text)));
  const failed = outcomes.find(({ status }) => status === 'rejected');
  if (!failed) tell(line, `Redis has it in ${list(subscriptions.map(({ facility }) => facility))}.`);
  else if (isCut) tell(line, 'Not sent: the line is cut. Publish in the second tab.', true);
  else tell(line, `Not sent: ${failed.reason.message}.`, true);
  return !failed;
}

export function startOneSocket() {
  installSwitch();
  // This part is about one socket: it stays without one where WebSockets are refused.
  page = globalThis.WS4Redis.page(base, { fallback: false });
  const options = { subscribe: 'broadcast', publish: 'broadcast', echo: true };
  const kept = page.subscribe(KEPT, { ...options, presence: true, last: LAST });
  const subscriptions = [kept, page.subscribe(UNKEPT, options)];
  subscriptions.forEach(pane);
  watchRules(kept);

  const line = follow(NAME, true);
  track(line, page, () => line.opened(`open as ${page.id}, for ${KEPT} and ${UNKEPT}`));
  page.addEventListener('state', showState);
  byId('cut').addEventListener('change', ({ target }) => setLine(target.checked));
  byId('to-both').addEventListener('submit', async (event) => {
    event.preventDefault();
    const field = byId('to-both-text');
    if (field.value && (await publish(subscriptions, field.value))) field.value = '';
  });
  byId('one-socket-cli').append(
    copyable('ws4redis publish: a message for the history', `ws4redis publish --broadcast ${KEPT} Hello`),
  );
  byId('one-socket-settings').append(settings);
  showState();
}
