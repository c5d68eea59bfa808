// Publishes with an emitter, or with a server without clients of its own: one command a line, as a JSON array, until its
// input ends. Answers each with a line.
//
//     node publisher.js KIND REDIS_PORT KEY
//
// KIND: emitter-3, emitter-4, emitter-5 or server. Commands, with the clients {namespace, rooms, except, volatile}:
//
//     ["emit", CLIENTS, EVENT, ARGUMENT...]   ["join" | "leave", CLIENTS, ROOM]   ["disconnect", CLIENTS, CLOSE]
//     ["count", CLIENTS]   the sockets that the server finds on all servers

'use strict';

const readline = require('readline');
const Redis = require('ioredis');

const [kind, port, key] = process.argv.slice(2);
const redis = new Redis(Number(port));

function publisher() {
  if (kind === 'emitter-3') {
    return require('socket.io-emitter')(redis, { key });
  }
  if (kind === 'server') {
    const { Server } = require('socket.io');
    const { createAdapter } = require('@socket.io/redis-adapter');
    return new Server({ adapter: createAdapter(redis, redis.duplicate(), { key }) });
  }
  const { Emitter } = require(kind === 'emitter-4' ? 'redis-emitter-4' : '@socket.io/redis-emitter');
  return new Emitter(redis, { key });
}

const io = publisher();

// {bytes: hex} and {date: milliseconds} stand for values that JSON does not have.
function value(json) {
  if (json && json.bytes !== undefined) return Buffer.from(json.bytes, 'hex');
  if (json && json.date !== undefined) return new Date(json.date);
  return json;
}

function clients({ namespace = '/', rooms = [], except = [], volatile = false }) {
  let target = io.of(namespace);
  for (const room of rooms) target = target.to(room);
  for (const room of except) target = target.except(room);
  return volatile ? target.volatile : target;
}

async function run([command, target, ...rest]) {
  const found = clients(target);
  switch (command) {
    case 'emit':
      return void found.emit(...rest.map(value));
    case 'join':
      return void found.socketsJoin(rest[0]);
    case 'leave':
      return void found.socketsLeave(rest[0]);
    case 'disconnect':
      return void found.disconnectSockets(rest[0]);
    case 'count':
      return (await found.fetchSockets()).length;
  }
}

(async () => {
  for await (const line of readline.createInterface({ input: process.stdin })) {
    const result = await run(JSON.parse(line)).catch((error) => String(error));
    // Redis has all earlier messages.
    await redis.ping();
    console.log(JSON.stringify(result ?? null));
  }
  process.exit(0);
})();
