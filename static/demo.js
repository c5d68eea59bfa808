(function () {
  'use strict';

  const AUDIENCES = ['broadcast', 'group', 'user', 'session'];
  const KEPT = 200;
  const SHOWN_CHARS = 4000;
  const SHOWN_BYTES = 256;
  const EXPIRE = 3600;
  const CODES = {
    1000: 'normal',
    1001: 'going away',
    1002: 'protocol error',
    1005: 'no code given',
    1006: 'refused or lost',
    1007: 'invalid text',
    1008: 'policy',
    1009: 'message too big',
    1011: 'server error',
    1012: 'restart',
    1013: 'try again later',
    4401: 'the session has ended',
  };

  /** The server fills these in; opened without it, the placeholder is still there. */
  function setting(name, fallback) {
    const value = document.querySelector(`meta[name="${name}"]`)?.content ?? '';
    return value === '' || /^\{\{.*\}\}$/.test(value) ? fallback : value;
  }

  const base = setting('websocket-url', '/ws/');
  const heartbeat = setting('heartbeat', null);
  const prefix = setting('prefix', '');

  function element(tag, text, className) {
    const made = document.createElement(tag);
    if (text !== undefined) made.textContent = text;
    if (className) made.className = className;
    return made;
  }

  function list(words) {
    return words.length > 1 ? `${words.slice(0, -1).join(', ')} and ${words.at(-1)}` : words.join('');
  }

  function number(n) {
    return n.toLocaleString('en');
  }

  function hex(buffer) {
    const bytes = new Uint8Array(buffer, 0, Math.min(buffer.byteLength, SHOWN_BYTES));
    return Array.from(bytes, (byte) => byte.toString(16).padStart(2, '0')).join(' ');
  }

  function clock(date) {
    const two = (n) => String(n).padStart(2, '0');
    return (
      `${two(date.getHours())}:${two(date.getMinutes())}:${two(date.getSeconds())}` +
      `.${String(date.getMilliseconds()).padStart(3, '0')}`
    );
  }

  // ---- What a pane is set to ------------------------------------------------------------------

  function flagsOf(form) {
    const on = (verb) => AUDIENCES.filter((name) => form.elements[`${verb}-${name}`].checked);
    return {
      facility: form.elements.facility.value,
      subscribe: on('subscribe'),
      publish: on('publish'),
      echo: form.elements.echo.checked,
    };
  }

  function pathOf({ facility, subscribe, publish, echo }) {
    const flags = [
      ...subscribe.map((name) => `subscribe-${name}`),
      ...publish.map((name) => `publish-${name}`),
      ...(echo ? ['echo'] : []),
    ];
    const path = encodeURI(facility).replace(/[?#]/g, encodeURIComponent);
    return base + path + (flags.length ? `?${flags.join('&')}` : '');
  }

  function uriOf(wanted) {
    return (location.protocol === 'https:' ? 'wss://' : 'ws://') + location.host + pathOf(wanted);
  }

  /** Why this facility cannot be asked for; empty if it can. */
  function objection(facility) {
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

  // ---- One pane: one connection ---------------------------------------------------------------

  function createPane(index, onChange) {
    const section = document.getElementById('pane').content.firstElementChild.cloneNode(true);
    const $ = (selector) => section.querySelector(selector);
    const title = `Connection ${index + 1}`;
    const settings = $('.settings');
    const sendForm = $('.send');
    const field = sendForm.elements.message;
    const sendButton = $('.send button');
    const messages = $('.messages');

    let client = null;
    let state = 'closed';
    let since = '';
    let lastClose = '';
    let connectedPath = null;
    let countdown = null;
    let blocked = null;
    let resumeFocus = false;
    let total = 0;
    let listed = '';
    let pending = [];
    let flushTimer = null;

    $('h2').textContent = title;
    $('h2').id = `pane-${index}`;
    section.setAttribute('aria-labelledby', `pane-${index}`);
    messages.setAttribute('aria-label', `Messages that arrived on connection ${index + 1}`);
    $('.send-hint').id = `send-hint-${index}`;
    $('.flag-hint').id = `flag-hint-${index}`;
    field.setAttribute('aria-describedby', `send-hint-${index}`);
    settings.elements.facility.setAttribute('aria-describedby', `flag-hint-${index}`);

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

    function setState(next, seconds) {
      const changed = state !== next;
      state = next;
      section.dataset.state = next;
      const text =
        next === 'waiting'
          ? `reconnecting in ${seconds} s`
          : { connecting: 'connecting', open: 'open', closed: 'closed' }[next];
      $('.state-text').textContent = text;
      if (changed) since = clock(new Date()).slice(0, 8);
      $('.since').textContent =
        (next === 'open' ? `since ${since}` : '') +
        (lastClose && `${next === 'open' ? '; last' : 'Last'} close: ${lastClose}`);
      $('.toggle').textContent = next === 'closed' ? 'Connect' : 'Disconnect';
      $('.toggle').setAttribute('aria-label', `${$('.toggle').textContent} ${title.toLowerCase()}`);
      // The countdown is for the eye; a screen reader is told about changes of state only.
      if (changed)
        $('.said').textContent = `${title}: ${next === 'waiting' ? `${text}. Last close: ${lastClose}` : text}`;
      updateField();
    }

    function updateField() {
      const { publish } = flagsOf(settings);
      let reason = '';
      if (publish.length === 0)
        reason = 'Tick a publish flag to send: without one the gateway ignores what a client sends.';
      else if (state !== 'open') reason = 'Sending is possible while the connection is open.';
      if (reason === blocked) return;
      blocked = reason;
      // A field that is disabled loses the focus; whoever was typing gets it back.
      if (reason && document.activeElement === field) resumeFocus = true;
      field.disabled = sendButton.disabled = reason !== '';
      $('.send-hint').textContent = reason;
      if (!reason && resumeFocus) {
        if (document.activeElement === document.body) field.focus();
        resumeFocus = false;
      }
    }

    function stopCountdown() {
      clearInterval(countdown);
      countdown = null;
    }

    function startCountdown(milliseconds) {
      const due = Date.now() + milliseconds;
      const show = () => setState('waiting', Math.max(0, Math.ceil((due - Date.now()) / 1000)));
      show();
      countdown = setInterval(show, 1000);
    }

    function disconnect() {
      stopCountdown();
      const old = client;
      client = null;
      connectedPath = null;
      if (old) old.close();
    }

    function connect() {
      disconnect();
      const wanted = flagsOf(settings);
      if (objection(wanted.facility)) {
        setState('closed');
        return;
      }
      connectedPath = pathOf(wanted);
      // Callbacks of a connection that was replaced in the meantime are void.
      let current = null;
      const live =
        (callback) =>
        (...args) => {
          if (current === null || client === current) callback(...args);
        };
      try {
        current = new WS4Redis({
          uri: uriOf(wanted),
          heartbeat_msg: heartbeat,
          connecting: live(() => {
            stopCountdown();
            setState('connecting');
          }),
          connected: live(() => setState('open')),
          disconnected: live((event) => {
            const meaning = CODES[event.code];
            lastClose = `${event.code}${meaning ? ` (${meaning})` : ''}${event.reason ? `, “${event.reason}”` : ''}`;
            setState('closed');
          }),
          reconnecting: live(startCountdown),
          receive_message: live(arrived),
        });
        client = current;
      } catch (error) {
        lastClose = error.message;
        setState('closed');
      }
    }

    function arrived(data) {
      total += 1;
      pending.push({ data, time: new Date() });
      if (pending.length > KEPT) pending.shift();
      // In a burst the page is laid out once per batch, not once per message.
      if (flushTimer === null) flushTimer = setTimeout(flush, 16);
    }

    function flush() {
      flushTimer = null;
      const atEnd = messages.scrollHeight - messages.scrollTop - messages.clientHeight < 24;
      const added = document.createDocumentFragment();
      for (const { data, time } of pending) {
        const item = element('li');
        const stamp = element('time', clock(time));
        stamp.dateTime = time.toISOString();
        item.append(stamp, body(data));
        added.append(item);
      }
      pending = [];
      messages.append(added);
      while (messages.childElementCount > KEPT) messages.firstElementChild.remove();
      if (atEnd) messages.scrollTop = messages.scrollHeight;
      showCount();
    }

    function body(data) {
      const binary = typeof data !== 'string';
      const size = binary ? data.byteLength : data.length;
      const max = binary ? SHOWN_BYTES : SHOWN_CHARS;
      const text = element('span', binary ? hex(data) : data.slice(0, SHOWN_CHARS), binary ? 'text binary' : 'text');
      if (!binary) text.dir = 'auto';
      const note = [];
      if (binary) note.push(`binary, ${number(size)} bytes`);
      if (size > max)
        note.push(
          binary ? `the first ${number(max)} shown` : `${number(size)} characters, the first ${number(max)} shown`,
        );
      if (note.length) text.append(element('small', ` ${note.join(', ')}`));
      return text;
    }

    function clear() {
      messages.replaceChildren();
      pending = [];
      total = 0;
      listed = settings.elements.facility.value;
      showCount();
    }

    function showCount() {
      $('.count').textContent =
        total > KEPT ? `${number(total)}, the last ${KEPT} kept` : total > 0 ? number(total) : '';
      $('.clear').hidden = total === 0;
    }

    function showSettings() {
      const wanted = flagsOf(settings);
      const refused = objection(wanted.facility);
      settings.elements.facility.setAttribute('aria-invalid', String(refused !== ''));
      const owned = AUDIENCES.filter(
        (name) => name !== 'broadcast' && (wanted.subscribe.includes(name) || wanted.publish.includes(name)),
      );
      let hint = refused;
      if (!hint && owned.length && wanted.facility.includes(':'))
        hint = 'A facility with a colon gets its broadcast channel only.';
      if (!hint && owned.length)
        hint = `${list(owned)}: with a Django login only; anonymous visitors get no such channel.`;
      if (!hint && !wanted.subscribe.length && !wanted.publish.length)
        hint = 'Without flags the connection is open and idle.';
      if ($('.flag-hint').textContent !== hint) $('.flag-hint').textContent = hint;
      $('.uri code').textContent = refused ? '' : pathOf(wanted);
      updateField();
    }

    function apply() {
      showSettings();
      const wanted = flagsOf(settings);
      const path = objection(wanted.facility) ? null : pathOf(wanted);
      if (wanted.facility !== listed) clear();
      if (path === null || path !== connectedPath) connect();
      onChange(index);
    }

    settings.addEventListener('change', apply);
    settings.addEventListener('input', (event) => {
      if (event.target.name !== 'facility') return;
      showSettings();
      onChange(index);
    });
    settings.addEventListener('submit', (event) => {
      event.preventDefault();
      apply();
    });

    $('.toggle').addEventListener('click', () => {
      if (state === 'closed') {
        connect();
        return;
      }
      disconnect();
      lastClose = 'by you';
      setState('closed');
    });

    $('.clear').addEventListener('click', () => {
      clear();
      messages.focus();
    });

    sendForm.addEventListener('submit', (event) => {
      event.preventDefault();
      if (!client || !client.is_connected() || field.disabled) return;
      const text = field.value;
      const { subscribe, publish, echo } = flagsOf(settings);
      if (text === '') {
        $('.send-hint').textContent = 'An empty message is not relayed.';
        return;
      }
      if (text === heartbeat) {
        $('.send-hint').textContent = 'This text is the heartbeat, which is not relayed.';
        return;
      }
      client.send_message(text);
      field.value = '';
      let note = '';
      if (!publish.some((name) => subscribe.includes(name)))
        note = 'Sent. It does not come back, as this connection does not subscribe to where it publishes.';
      else if (!echo) note = 'Sent. It does not come back, as echo is off.';
      $('.send-hint').textContent = note;
    });

    document.getElementById('panes').append(section);
    clear();
    showSettings();
    connect();

    return { wanted: () => flagsOf(settings) };
  }

  // ---- Lines to copy --------------------------------------------------------------------------

  function shell(word) {
    return /^[\w.,:@%+=/-]+$/.test(word) ? word : `'${word.replace(/'/g, `'\\''`)}'`;
  }

  /** A string literal that Python and JavaScript read alike. */
  function quoted(text) {
    return `'${text.replace(/[\\']/g, '\\$&').replace(/[\u2028\u2029]/g, (c) => `\\u${c.charCodeAt(0).toString(16)}`)}'`;
  }

  const OWNER = { group: 'GROUPNAME', user: 'USERNAME', session: 'SESSIONKEY' };

  function channel(audience, facility) {
    return [...(prefix ? [prefix] : []), audience, ...(OWNER[audience] ? [OWNER[audience]] : []), facility].join(':');
  }

  function snippetsFor(wanted) {
    const { facility, subscribe, publish } = wanted;
    const made = [];
    const channels = (names) => names.map((name) => shell(channel(name, facility)));

    if (subscribe.length) {
      made.push(
        {
          name: 'redis-publish',
          title: 'redis-cli: to those connected now',
          about: 'PUBLISH reaches everyone who is subscribed at this moment.',
          code: channels(subscribe)
            .map((name) => `redis-cli PUBLISH ${name} Hello`)
            .join('\n'),
        },
        {
          name: 'redis-setex',
          title: 'redis-cli: to latecomers',
          about: 'A key with the name of the channel is sent to those who connect within its time, here an hour.',
          code: channels(subscribe)
            .map((name) => `redis-cli SETEX ${name} ${EXPIRE} Hello`)
            .join('\n'),
        },
      );
    }
    if (publish.length) {
      made.push({
        name: 'redis-subscribe',
        title: 'redis-cli: listen',
        about: 'Shows what this connection sends.',
        code: `redis-cli SUBSCRIBE ${channels(publish).join(' ')}`,
      });
    }
    if (subscribe.length) {
      const audience = {
        broadcast: 'broadcast=True',
        group: `groups=['${OWNER.group}']`,
        user: `users=['${OWNER.user}']`,
        session: `sessions=['${OWNER.session}']`,
      };
      const args = [`facility=${quoted(facility)}`, ...subscribe.map((name) => audience[name])].join(', ');
      made.push({
        name: 'django',
        title: 'Django',
        about: 'Publishes and keeps the message for latecomers.',
        code: [
          'from ws4redis.publisher import RedisPublisher',
          'from ws4redis.redis_store import RedisMessage',
          '',
          ...(prefix ? [`# settings.py: WS4REDIS_PREFIX = ${quoted(prefix)}`] : []),
          `publisher = RedisPublisher(${args})`,
          "publisher.publish_message(RedisMessage('Hello'))",
        ].join('\n'),
      });
    }
    made.push({
      name: 'javascript',
      title: 'JavaScript',
      about: 'Opens this connection from any page of this site that loads /static/ws4redis.js.',
      code: [
        'const socket = new WS4Redis({',
        `  uri: ${quoted(uriOf(wanted))},`,
        ...(publish.length ? [`  connected: () => socket.send_message('Hello'),`] : []),
        ...(subscribe.length ? ['  receive_message: (message) => console.log(message),'] : []),
        ...(heartbeat ? [`  heartbeat_msg: ${quoted(heartbeat)},`] : []),
        '});',
      ].join('\n'),
    });
    return made;
  }

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

  function renderSnippets(wanted) {
    const box = document.getElementById('snippet-list');
    const refused = objection(wanted.facility);
    const wantedSnippets = refused ? [] : snippetsFor(wanted);
    const names = wantedSnippets.map(({ name }) => name);
    for (const shown of [...box.children]) if (!names.includes(shown.dataset.name)) shown.remove();
    wantedSnippets.forEach((snippet, place) => {
      let shown = [...box.children].find((child) => child.dataset.name === snippet.name);
      if (!shown) {
        shown = document.getElementById('snippet').content.firstElementChild.cloneNode(true);
        shown.dataset.name = snippet.name;
        shown.querySelector('h3').textContent = snippet.title;
        shown.querySelector('p').textContent = snippet.about;
        shown.querySelector('pre').setAttribute('aria-label', snippet.title);
        const button = shown.querySelector('.copy');
        const code = shown.querySelector('code');
        button.setAttribute('aria-label', `Copy: ${snippet.title}`);
        button.addEventListener('click', async () => {
          const done = await copy(code.textContent, code);
          button.textContent = done ? 'Copied' : 'Press Ctrl+C';
          document.getElementById('copied').textContent = done ? `Copied: ${snippet.title}` : 'Selected, press Ctrl+C';
          setTimeout(() => {
            button.textContent = 'Copy';
            document.getElementById('copied').textContent = '';
          }, 1500);
        });
      }
      shown.querySelector('code').textContent = snippet.code;
      if (box.children[place] !== shown) box.insertBefore(shown, box.children[place] ?? null);
    });
  }

  // ---- The page -------------------------------------------------------------------------------

  const radios = [...document.querySelectorAll('input[name="which"]')];
  const panes = [];
  const showFor = (index) => {
    radios[index].checked = true;
    renderSnippets(panes[index].wanted());
  };
  for (const index of [0, 1]) panes.push(createPane(index, showFor));
  for (const radio of radios) radio.addEventListener('change', () => showFor(Number(radio.value)));
  showFor(0);
})();
