// Bun's own WebSocket server with its publish by topic; a channel of Redis is subscribed when its first client comes.
//
//   /?ch=CHANNEL          hears the channel, and publishes to it
//   /?ch=CHANNEL&nosub    only publishes
//
// With EXPIRE=SECONDS each message is kept as well, by a SETEX in the same pipeline as its PUBLISH.
const redis = `redis://127.0.0.1:${process.env.REDIS_PORT}`;
const expire = process.env.EXPIRE ?? '0';
const sub = new Bun.RedisClient(redis);
const pub = new Bun.RedisClient(redis);
await sub.connect();
await pub.connect();
// The first subscription makes the client a subscriber; it stays one.
await sub.subscribe('nothing', () => {});
const listeners = new Map();
const server = Bun.serve({
  hostname: '127.0.0.1',
  port: Number(process.env.PORT),
  fetch(request, server) {
    const { searchParams } = new URL(request.url);
    const data = { channel: searchParams.get('ch'), hears: !searchParams.has('nosub') };
    return server.upgrade(request, { data }) ? undefined : new Response('WebSockets only', { status: 400 });
  },
  websocket: {
    perMessageDeflate: false,
    maxBackpressure: 1 << 28,
    backpressureLimit: 1 << 28,
    closeOnBackpressureLimit: false,
    idleTimeout: 0,
    sendPings: false,
    async open(socket) {
      const { channel, hears } = socket.data;
      if (!hears) return;
      socket.subscribe(channel);
      let entry = listeners.get(channel);
      if (!entry) {
        entry = { count: 0, subscribed: sub.subscribe(channel, (message) => server.publish(channel, message)) };
        listeners.set(channel, entry);
      }
      entry.count += 1;
      await entry.subscribed;
    },
    message(socket, message) {
      const { channel } = socket.data;
      if (expire !== '0') pub.send('SETEX', [channel, expire, message]);
      pub.publish(channel, message);
    },
    async close(socket) {
      const { channel, hears } = socket.data;
      if (!hears) return;
      const entry = listeners.get(channel);
      entry.count -= 1;
      if (entry.count > 0) return;
      // Who closes before the subscription is there must not end it too soon: Bun throws then, and ends.
      await entry.subscribed;
      if (entry.count > 0 || listeners.get(channel) !== entry) return;
      listeners.delete(channel);
      await sub.unsubscribe(channel);
    },
  },
});
