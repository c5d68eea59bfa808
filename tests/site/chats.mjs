// What visitors do while nothing goes wrong, and what ends their connections for good reasons.
import assert from 'node:assert/strict';
import { becomes, check, unique, within } from '../browser/checks.mjs';
import { got, open, send, stateOf, states, transport } from '../browser/sockets.mjs';
import { allHear, attend, closeAll, heard, logIn, press, say, textOf } from './stage.mjs';

const LOGOUT_MS = 2000;
const SOCKETS = 100;
const TOKEN_S = 3;
const CROWD_MS = 20_000;

export async function chat({ john, mary }) {
  await check('john and mary chat with everybody', async () => {
    const [johns, marys] = [await john.chat(), await mary.chat()];
    for (const page of [johns, marys, johns]) {
      const text = unique('Grüße & <b>');
      await say(page, text);
      await allHear([johns, marys], text);
    }
    assert.equal(await transport(johns, 'line')(), 'websocket');
    assert.equal(await textOf(johns, '#state'), 'Connected');
    await closeAll(johns, marys);
  });

  await check('john and mary write to each other, and to groups, and nobody else reads it', async () => {
    const [johns, marys] = [await john.chat('/userchat/'), await mary.chat('/userchat/')];
    const [toJohn, toMary] = [unique('to john'), unique('to mary')];
    await say(marys, toJohn, 'john');
    await allHear([johns], toJohn);
    await say(johns, toMary, 'mary');
    await allHear([marys], toMary);
    for (const [page, other] of [[johns, toMary], [marys, toJohn]])
      assert.ok(!(await heard(page)).includes(other), `${other} was heard by somebody else`);
    await closeAll(johns, marys);

    const pages = [await john.chat('/groupchat/'), await mary.chat('/groupchat/')];
    const [toReds, toBoth] = [unique('to the reds'), unique('to both')];
    await say(pages[1], toReds, 'red team');
    await allHear([pages[0]], toReds);
    await say(pages[0], toBoth, 'chatusers');
    await allHear(pages, toBoth);
    assert.ok(!(await heard(pages[1])).includes(toReds), 'mary is none of the red team');
    await closeAll(...pages);
  });

  await check('the last message is there again when the page is loaded anew', async () => {
    const [johns, marys] = [await john.chat('/userchat/'), await mary.chat('/userchat/')];
    const kept = unique('kept');
    await say(marys, kept, 'john');
    await allHear([johns], kept);
    await johns.reload();
    await attend(johns);
    await becomes(() => heard(johns), [kept], 'what john hears');
    await closeAll(johns, marys);
  });
}

export async function oldTemplates({ john, mary }) {
  await check('old templates with jQuery chat with each other and with the new pages', async () => {
    const [johns, marys, news] = [await john.page('/old/chat/'), await mary.page('/old/chat/'), await mary.chat()];
    for (const page of [johns, marys]) {
      assert.match(await page.evaluate(() => `${typeof WS4Redis} ${jQuery.fn.jquery}`), /^function 3\./);
      await becomes(() => textOf(page, '#state'), 'connected', 'state');
    }
    const first = unique('Enter');
    await johns.type('#text', first);
    await johns.keyboard.press('Enter');
    await allHear([johns, marys, news], first);
    const second = unique('button');
    await marys.type('#text', second);
    await press(marys, '#send');
    await allHear([johns, marys, news], second);
    await closeAll(johns, marys, news);
  });

  await check('old templates of users and groups send by jQuery to Django, and hear', async () => {
    for (const [path, to] of [['user', 'john'], ['group', 'red team']]) {
      const [johns, marys] = [await john.page(`/old/${path}chat/`), await mary.page(`/old/${path}chat/`)];
      for (const page of [johns, marys]) await becomes(() => textOf(page, '#state'), 'connected', 'state');
      const text = unique(`to ${to}`);
      await marys.select(`#${path}`, to);
      await marys.type('#text', text);
      await press(marys, '#send');
      await allHear([johns], text);
      assert.ok(!(await heard(marys)).includes(text), `mary is not ${to}`);
      await closeAll(johns, marys);
    }
  });
}

export async function crowd({ world, john, mary }) {
  await check(`${SOCKETS} sockets of one browser get the same message`, async () => {
    const room = unique('crowd');
    const [speaks, ...pages] = [await mary.chat(), await john.chat(), await john.chat()];
    for (const page of pages) {
      await page.evaluate(([room, count, heartbeat]) => {
        const make = () => WS4Redis.connect(`/ws/${room}`, { subscribe: 'broadcast', fallback: false, heartbeat });
        const next = (type) => (socket) =>
          new Promise((resolve) => socket.addEventListener(type, resolve, { once: true }));
        const crowd = Array.from({ length: count }, make);
        window.opened = Promise.all(crowd.map(next('open'))).then((all) => all.length);
        window.told = Promise.all(crowd.map(next('message'))).then((all) => all.map(({ data }) => data));
      }, [room, SOCKETS / pages.length, world.heartbeat]);
    }
    const all = async (what) => (await Promise.all(pages.map((page) => page.evaluate(what)))).flat();
    await within(all(() => window.opened), 'all sockets open', CROWD_MS);
    await open(speaks, 'one', room, { publish: 'broadcast' });
    await send(speaks, 'one', 'to all');
    const told = await within(all(() => window.told), 'all sockets have heard it', CROWD_MS);
    assert.deepEqual(told, Array(SOCKETS).fill('to all'));
    await closeAll(speaks, ...pages);
  });
}

export async function refusals({ world, john, mary }) {
  await check('a page of another origin is refused where it would use the session, and is told so', async () => {
    const path = `wss://${world.host}/ws/${unique('foreign')}`;
    const flags = { subscribe: 'user', publish: 'user' };
    const foreign = await john.page('/', `https://${world.neighbour}`);
    await open(foreign, 'a', path, flags, 'closed');
    const [codes, reasons] = await foreign.evaluate(() => [window.a.codes, window.a.reasons]);
    assert.deepEqual(codes, [1008]);
    assert.match(reasons[0], /^HTTP 403 the page's origin https:\/\/other\.example\.com is not/);
    // It is the session that makes the difference: nobody may come from anywhere.
    const stranger = await mary.browser.createBrowserContext();
    const page = await stranger.newPage();
    await page.goto(`https://${world.neighbour}/`);
    await open(page, 'a', path, flags);
    await stranger.close();
    await foreign.close();
  });
}

export async function tokens({ world, john }) {
  await check('each attempt shows a new token, and it counts more than the session', async () => {
    const page = await john.chat();
    const room = unique('tokens');
    const flags = { subscribe: 'user', publish: 'user', echo: true, heartbeat: world.heartbeat };
    const list = [await world.do('token', 'jim', TOKEN_S), await world.do('token', 'jim', 600)];
    await open(page, 'jims', room, { ...flags, tokens: list });
    await open(page, 'johns', room, flags);
    await becomes(async () => (await states(page, 'jims')()).at(-1), '+gap', 'the next token', CROWD_MS);
    const seen = (await states(page, 'jims')()).filter((state) => !state.startsWith('+'));
    assert.deepEqual(seen.slice(-3), ['session-ended', 'connecting', 'open']);
    await send(page, 'jims', 'as jim');
    await becomes(got(page, 'jims'), ['as jim'], 'what jim hears');
    await send(page, 'johns', 'as john');
    await becomes(got(page, 'johns'), ['as john'], 'what john hears');
    await page.close();
  });
}

export async function logout({ john, mary }) {
  await check('logging out in one tab ends the sockets of all tabs of that browser, and no others', async () => {
    const marys = await mary.chat('/userchat/');
    const tabs = [await john.chat('/userchat/'), await john.chat('/groupchat/'), await john.chat('/chat/')];
    const [leaving, ...others] = tabs;
    await leaving.evaluate(() => addEventListener('submit', () => sessionStorage.setItem('left', Date.now())));
    await Promise.all([leaving.waitForNavigation(), press(leaving, '.who button')]);
    const since = await leaving.evaluate(() => Number(sessionStorage.getItem('left')));
    for (const page of others) {
      const ended = async () => (await states(page, 'line')()).includes('session-ended');
      await becomes(ended, true, 'the session has ended');
      const at = await page.evaluate(() => window.line.at.find(({ state }) => state === 'session-ended').time);
      assert.ok(at - since <= LOGOUT_MS, `${page.url()} was told after ${at - since} ms`);
      await becomes(() => page.$eval('#logged-out', ({ hidden }) => hidden), false, 'the notice is hidden');
    }
    // They come back as nobody's.
    for (const page of others) await becomes(stateOf(page, 'line'), 'open', 'state');
    const text = unique('for john');
    await say(marys, text, 'john');
    await say(marys, unique('for mary'), 'mary');
    await becomes(async () => (await heard(marys)).at(-1)?.startsWith('for mary'), true, 'mary hears');
    for (const page of others) assert.ok(!(await heard(page)).includes(text), 'a message for john has come to nobody');
    assert.deepEqual(await states(marys, 'line')(), [], 'mary is left alone');
    await closeAll(marys, ...tabs);
    await logIn(john);
  });
}
