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
      const count = listeners.get(channel) ?? 0;
      listeners.set(channel, count + 1);
      if (count === 0) await sub.subscribe(channel, (message) => server.publish(channel, message));
    },
    message(socket, message) {
      const { channel } = socket.data;
      if (expire !== '0') pub.send('SETEX', [channel, expire, message]);
      pub.publish(channel, message);
    },
    close(socket) {
      const { channel, hears } = socket.data;
      if (!hears) return;
      const count = listeners.get(channel) - 1;
      if (count > 0) {
        listeners.set(channel, count);
      } else {
        listeners.delete(channel);
        sub.unsubscribe(channel);
      }
    },
  },
});
