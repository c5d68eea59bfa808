// Visitors chat without failures; refusals, tokens and logouts end connections as intended.
import assert from 'node:assert/strict';
import { becomes, check, unique, within } from '../browser/checks.mjs';
import { received, open, send, stateOf, states, transport } from '../browser/sockets.mjs';
import { allReceive, waitUntilOpen, closeAll, messagesOf, logIn, press, submitMessage, textOf } from './visitors.mjs';

const LOGOUT_MS = 2000;
const SOCKETS = 100;
const TOKEN_S = 3;
const MANY_SOCKETS_MS = 20_000;

export async function chat({ john, mary }) {
  await check('john and mary chat with everybody', async () => {
    const [johns, marys] = [await john.chat(), await mary.chat()];
    for (const page of [johns, marys, johns]) {
      const text = unique('Grüße & <b>');
      await submitMessage(page, text);
      await allReceive([johns, marys], text);
    }
    assert.equal(await transport(johns, 'chatSocket')(), 'websocket');
    assert.equal(await textOf(johns, '#state'), 'Connected');
    await closeAll(johns, marys);
  });

  await check('messages to a user or a group reach only that user or group', async () => {
    const [johns, marys] = [await john.chat('/userchat/'), await mary.chat('/userchat/')];
    const [toJohn, toMary] = [unique('to john'), unique('to mary')];
    await submitMessage(marys, toJohn, 'john');
    await allReceive([johns], toJohn);
    await submitMessage(johns, toMary, 'mary');
    await allReceive([marys], toMary);
    for (const [page, other] of [[johns, toMary], [marys, toJohn]])
      assert.ok(!(await messagesOf(page)).includes(other), `${other} reached another user`);
    await closeAll(johns, marys);

    const pages = [await john.chat('/groupchat/'), await mary.chat('/groupchat/')];
    const [toReds, toBoth] = [unique('to the reds'), unique('to both')];
    await submitMessage(pages[1], toReds, 'red team');
    await allReceive([pages[0]], toReds);
    await submitMessage(pages[0], toBoth, 'chatusers');
    await allReceive(pages, toBoth);
    assert.ok(!(await messagesOf(pages[1])).includes(toReds), 'mary is not in the red team');
    await closeAll(...pages);
  });

  await check('the last message is replayed after a reload of the page', async () => {
    const [johns, marys] = [await john.chat('/userchat/'), await mary.chat('/userchat/')];
    const kept = unique('kept');
    await submitMessage(marys, kept, 'john');
    await allReceive([johns], kept);
    await johns.reload();
    await waitUntilOpen(johns);
    await becomes(() => messagesOf(johns), [kept], 'the messages of john');
    await closeAll(johns, marys);
  });
}

export async function oldTemplates({ john, mary }) {
  await check('pages of the legacy API with jQuery chat with each other and with the modern API', async () => {
    const [johns, marys, news] = [await john.page('/old/chat/'), await mary.page('/old/chat/'), await mary.chat()];
    for (const page of [johns, marys]) {
      assert.match(await page.evaluate(() => `${typeof WS4Redis} ${jQuery.fn.jquery}`), /^function 3\./);
      await becomes(() => textOf(page, '#state'), 'connected', 'state');
    }
    const first = unique('Enter');
    await johns.type('#text', first);
    await johns.keyboard.press('Enter');
    await allReceive([johns, marys, news], first);
    const second = unique('button');
    await marys.type('#text', second);
    await press(marys, '#send');
    await allReceive([johns, marys, news], second);
    await closeAll(johns, marys, news);
  });

  await check('legacy pages of users and groups post by jQuery to Django, and receive', async () => {
    for (const [path, to] of [['user', 'john'], ['group', 'red team']]) {
      const [johns, marys] = [await john.page(`/old/${path}chat/`), await mary.page(`/old/${path}chat/`)];
      for (const page of [johns, marys]) await becomes(() => textOf(page, '#state'), 'connected', 'state');
      const text = unique(`to ${to}`);
      await marys.select(`#${path}`, to);
      await marys.type('#text', text);
      await press(marys, '#send');
      await allReceive([johns], text);
      assert.ok(!(await messagesOf(marys)).includes(text), `mary is not ${to}`);
      await closeAll(johns, marys);
    }
  });
}

export async function manySockets({ deployment, john, mary }) {
  await check(`${SOCKETS} sockets of one browser get the same message`, async () => {
    const facility = unique('many');
    const [publisher, ...pages] = [await mary.chat(), await john.chat(), await john.chat()];
    for (const page of pages) {
      await page.evaluate(([facility, count, heartbeat]) => {
        const make = () => WS4Redis.connect(`/ws/${facility}`, { subscribe: 'broadcast', fallback: false, heartbeat });
        const next = (type) => (socket) =>
          new Promise((resolve) => socket.addEventListener(type, resolve, { once: true }));
        const sockets = Array.from({ length: count }, make);
        window.opened = Promise.all(sockets.map(next('open'))).then((all) => all.length);
        window.received = Promise.all(sockets.map(next('message'))).then((all) => all.map(({ data }) => data));
      }, [facility, SOCKETS / pages.length, deployment.heartbeat]);
    }
    const all = async (what) => (await Promise.all(pages.map((page) => page.evaluate(what)))).flat();
    await within(all(() => window.opened), 'all sockets open', MANY_SOCKETS_MS);
    await open(publisher, 'one', facility, { publish: 'broadcast' });
    await send(publisher, 'one', 'to all');
    const received = await within(all(() => window.received), 'all sockets have received the message', MANY_SOCKETS_MS);
    assert.deepEqual(received, Array(SOCKETS).fill('to all'));
    await closeAll(publisher, ...pages);
  });
}

export async function refusals({ deployment, john, mary }) {
  await check('a page of another origin may not use the session, and its close event has the reason', async () => {
    const path = `wss://${deployment.host}/ws/${unique('foreign')}`;
    const flags = { subscribe: 'user', publish: 'user' };
    const foreign = await john.page('/', `https://${deployment.foreignHost}`);
    await open(foreign, 'a', path, flags, 'closed');
    const [codes, reasons] = await foreign.evaluate(() => [window.a.codes, window.a.reasons]);
    assert.deepEqual(codes, [1008]);
    assert.match(reasons[0], /^HTTP 403 the origin https:\/\/other\.example\.com of the page does not match/);
    // The origin check protects sessions only: anonymous visitors may connect from any origin.
    const anonymous = await mary.browser.createBrowserContext();
    const page = await anonymous.newPage();
    await page.goto(`https://${deployment.foreignHost}/`);
    await open(page, 'a', path, flags);
    await anonymous.close();
    await foreign.close();
  });
}

export async function tokens({ deployment, john }) {
  await check('each attempt sends a new token, which takes precedence over the session', async () => {
    const page = await john.chat();
    const facility = unique('tokens');
    const flags = { subscribe: 'user', publish: 'user', echo: true, heartbeat: deployment.heartbeat };
    const list = [await deployment.do('token', 'jim', TOKEN_S), await deployment.do('token', 'jim', 600)];
    await open(page, 'jims', facility, { ...flags, tokens: list });
    await open(page, 'johns', facility, flags);
    await becomes(async () => (await states(page, 'jims')()).at(-1), '+gap', 'the next token', MANY_SOCKETS_MS);
    const seen = (await states(page, 'jims')()).filter((state) => !state.startsWith('+'));
    assert.deepEqual(seen.slice(-3), ['session-ended', 'connecting', 'open']);
    await send(page, 'jims', 'as jim');
    await becomes(received(page, 'jims'), ['as jim'], 'the messages of jim');
    await send(page, 'johns', 'as john');
    await becomes(received(page, 'johns'), ['as john'], 'the messages of john');
    await page.close();
  });
}

export async function logout({ john, mary }) {
  await check('a logout in one tab closes the sockets of all tabs of that browser, and no others', async () => {
    const marys = await mary.chat('/userchat/');
    const tabs = [await john.chat('/userchat/'), await john.chat('/groupchat/'), await john.chat('/chat/')];
    const [leaving, ...others] = tabs;
    await leaving.evaluate(() => addEventListener('submit', () => sessionStorage.setItem('left', Date.now())));
    await Promise.all([leaving.waitForNavigation(), press(leaving, '.who button')]);
    const since = await leaving.evaluate(() => Number(sessionStorage.getItem('left')));
    for (const page of others) {
      const ended = async () => (await states(page, 'chatSocket')()).includes('session-ended');
      await becomes(ended, true, 'the session has ended');
      const at = await page.evaluate(() => window.chatSocket.at.find(({ state }) => state === 'session-ended').time);
      assert.ok(at - since <= LOGOUT_MS, `${page.url()} was notified after ${at - since} ms`);
      await becomes(() => page.$eval('#logged-out', ({ hidden }) => hidden), false, 'the notice is hidden');
    }
    // They reconnect as anonymous.
    for (const page of others) await becomes(stateOf(page, 'chatSocket'), 'open', 'state');
    const text = unique('for john');
    await submitMessage(marys, text, 'john');
    await submitMessage(marys, unique('for mary'), 'mary');
    await becomes(async () => (await messagesOf(marys)).at(-1)?.startsWith('for mary'), true, 'a message to mary');
    for (const page of others) assert.ok(!(await messagesOf(page)).includes(text), 'an anonymous page received a message for john');
    assert.deepEqual(await states(marys, 'chatSocket')(), [], 'the socket of mary stays open');
    await closeAll(marys, ...tabs);
    await logIn(john);
  });
}
