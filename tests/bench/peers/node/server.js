// `ws` with ioredis, one send for each listener of a channel. Addresses and EXPIRE as for Bun's server.
const http = require('node:http');
const Redis = require('ioredis');
const { WebSocketServer } = require('ws');

const expire = process.env.EXPIRE ?? '0';
const sub = new Redis(process.env.REDIS_PORT, '127.0.0.1');
const pub = new Redis(process.env.REDIS_PORT, '127.0.0.1');
const channels = new Map();
sub.on('messageBuffer', (channel, message) => {
  for (const socket of channels.get(channel.toString()) ?? []) socket.send(message, { binary: false });
});
const server = http.createServer();
new WebSocketServer({ server, perMessageDeflate: false }).on('connection', (socket, request) => {
  const { searchParams } = new URL(request.url, 'http://localhost');
  const channel = searchParams.get('ch');
  if (!searchParams.has('nosub')) {
    const sockets = channels.get(channel) ?? new Set();
    if (sockets.size === 0) {
      channels.set(channel, sockets);
      sub.subscribe(channel);
    }
    sockets.add(socket);
    socket.on('close', () => {
      sockets.delete(socket);
      if (sockets.size === 0 && channels.get(channel) === sockets) {
        channels.delete(channel);
        sub.unsubscribe(channel);
      }
    });
  }
  socket.on('message', (message) => {
    if (expire !== '0') pub.setex(channel, expire, message);
    pub.publish(channel, message);
  });
  socket.on('error', () => {});
});
server.listen(Number(process.env.PORT), '127.0.0.1', 4096);
