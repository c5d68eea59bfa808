// Lists of received messages, newest last.
import { clock, element, number } from './page.js';

const SHOWN_CHARS = 4000;
const SHOWN_BYTES = 256;

function hex(buffer) {
  const bytes = new Uint8Array(buffer, 0, Math.min(buffer.byteLength, SHOWN_BYTES));
  return Array.from(bytes, (byte) => byte.toString(16).padStart(2, '0')).join(' ');
}

/** A message as an element: text unchanged, binary in hex; long ones are cut. */
export function shown(data) {
  const binary = typeof data !== 'string';
  const size = binary ? data.byteLength : data.length;
  const max = binary ? SHOWN_BYTES : SHOWN_CHARS;
  const text = element('span', binary ? hex(data) : data.slice(0, SHOWN_CHARS), binary ? 'text binary' : 'text');
  if (!binary) text.dir = 'auto';
  const note = [];
  if (binary) note.push(`binary, ${number(size)} bytes`);
  if (size > max)
    note.push(binary ? `the first ${max} shown` : `${number(size)} characters, the first ${number(max)} shown`);
  if (note.length) text.append(element('small', ` ${note.join(', ')}`));
  return text;
}

/**
 * Limits a list to its last `most` entries, and scrolls with it while the reader is at its end.
 * `keepEnd` is to be called after a change of an entry.
 * @returns {{add: function(...Node): Element, keepEnd: function(): void, clear: function(): void}}
 */
export function bounded(box, most = 200) {
  let pending = [];
  let timer = null;
  // Kept up to date by scrolling: when a message arrives, the box may already have another size.
  let atEnd = true;
  box.addEventListener('scroll', () => (atEnd = box.scrollHeight - box.scrollTop - box.clientHeight < 24));

  function flush() {
    timer = null;
    box.append(...pending.splice(0));
    while (box.childElementCount > most) box.firstElementChild.remove();
    keepEnd();
  }

  function keepEnd() {
    if (atEnd) box.scrollTop = box.scrollHeight;
  }

  return {
    add(...parts) {
      const now = new Date();
      const item = element('div', undefined, 'entry');
      const stamp = element('time', clock(now));
      stamp.dateTime = now.toISOString();
      item.append(stamp, ...parts);
      pending.push(item);
      if (pending.length > most) pending.shift();
      // In a burst the layout runs once per batch, not once per message.
      timer ??= setTimeout(flush, 16);
      return item;
    },
    keepEnd,
    clear() {
      pending = [];
      box.replaceChildren();
    },
  };
}
