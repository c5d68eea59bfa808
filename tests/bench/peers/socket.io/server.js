// socket.io on node, driven by python-socketio's RedisManager: text events with one argument. Addresses as for Bun's server.
const Redis = require('ioredis');
const { Server } = require('socket.io');

const io = new Server({ transports: ['polling', 'websocket'] });
io.on('connection', (socket) => socket.join([`user:${socket.handshake.query.user}`, 'group:staff']));
const sub = new Redis(process.env.REDIS_PORT, '127.0.0.1');
sub.on('message', (_, message) => {
  const { method, event, data, room } = JSON.parse(message);
  if (method === 'emit') (room === null ? io.local : io.local.to(room)).emit(event, ...data);
});
sub.subscribe('socketio').then(() => io.listen(Number(process.env.PORT)));
