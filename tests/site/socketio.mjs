// The official Socket.IO clients on pages of the site: rooms, binary data, the upgrade, restarts and a logout.
import assert from 'node:assert/strict';
import { fileURLToPath } from 'node:url';
import { becomes, check, unique } from '../browser/checks.mjs';
import { closeAll, logIn, press } from './visitors.mjs';

const RECONNECT_MS = 20_000;
const MAJORS = [4, 2];
const TRANSPORTS = ['websocket', 'polling', 'polling,websocket'];

const library = (major) =>
  fileURLToPath(new URL(`../socketio/node_modules/socket.io-client-${major}/dist/socket.io.js`, import.meta.url));

/** Opens a page with a client of this release, which records what happens as `window.got`. */
async function open(visitor, major, transports) {
  const page = await visitor.page('/chat/');
  await page.addScriptTag({ path: library(major) });
  await page.evaluate((transports) => {
    window.got = [];
    window.connects = 0;
    const socket = (window.sio = window.io(location.origin, { transports: transports.split(','), reconnectionDelay: 100 }));
    const plain = (value) => (value instanceof ArrayBuffer ? `bytes ${new TextDecoder().decode(value)}` : value);
    socket.on('connect', () => (window.connects += 1));
    socket.on('disconnect', (reason) => window.got.push(reason));
    socket.on('news', (...values) => window.got.push(...values.map(plain)));
  }, transports);
  await becomes(connects(page), 1, `client ${major}.x connects over ${transports}`);
  const last = transports.split(',').at(-1);
  await becomes(() => page.evaluate(() => window.sio.io.engine.transport.name), last, 'the transport');
  return page;
}

const connects = (page) => () => page.evaluate(() => window.connects);
const got = (page) => () => page.evaluate(() => window.got);
const roomOf = ({ name }) => `ws4redis:user:${name}`;

export async function clients({ deployment, john, mary }) {
  for (const major of MAJORS)
    for (const transports of TRANSPORTS)
      await check(`Socket.IO ${major}.x over ${transports} gets events of its user, its rooms and everybody`, async () => {
        const [johns, marys] = await Promise.all([open(john, major, transports), open(mary, major, transports)]);
        const [text, room, bytes, last] = ['ż€🎉 for john', 'in the room', 'ż', 'for all'].map(unique);
        const sid = await marys.evaluate(() => window.sio.id);
        await deployment.do('enter_room', sid, room);
        await deployment.do('emit', roomOf(john), text, { list: [1, null, text] });
        await deployment.do('emit_bytes', roomOf(john), bytes);
        await deployment.do('emit', room, room);
        await deployment.do('emit', null, last);
        await becomes(got(johns), [text, { list: [1, null, text] }, `bytes ${bytes}`, last], 'john gets');
        await becomes(got(marys), [room, last], 'mary gets');
        await closeAll(johns, marys);
      });
}

export async function restart({ deployment, john }) {
  await check('Socket.IO clients come back after a restart of the gateway, over each transport', async () => {
    const pages = [];
    for (const major of MAJORS) for (const transports of TRANSPORTS) pages.push(await open(john, major, transports));
    await deployment.do('restart_gateways');
    for (const page of pages) await becomes(connects(page), 2, 'a second connection', RECONNECT_MS);
    const text = unique('after the restart');
    await deployment.do('emit', roomOf(john), text);
    for (const page of pages)
      await becomes(async () => (await got(page)()).filter((value) => value !== 'transport error'), ['transport close', text], 'got');
    await closeAll(...pages);
  });
}

export async function logout({ deployment, john }) {
  await check('Socket.IO clients come back anonymous after a logout', async () => {
    const pages = [];
    for (const transports of ['websocket', 'polling']) pages.push(await open(john, 4, transports));
    const leaving = await john.page('/chat/');
    await Promise.all([leaving.waitForNavigation(), press(leaving, '.who button')]);
    for (const page of pages) await becomes(connects(page), 2, 'a second connection');
    const [secret, last] = ['for john', 'for all'].map(unique);
    await deployment.do('emit', roomOf(john), secret);
    await deployment.do('emit', null, last);
    for (const page of pages) {
      await becomes(async () => (await got(page)()).at(-1), last, 'an event for everybody');
      assert.ok(!(await got(page)()).includes(secret), 'an anonymous client received an event for john');
    }
    await closeAll(leaving, ...pages);
    await logIn(john);
  });
}
