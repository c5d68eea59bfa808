// The official Socket.IO client at the same gateway. It is loaded only if the gateway serves Socket.IO.
import { note } from './log.js';
import { bounded, shown } from './messages.js';
import { byId, copyable, element, redisCli, shell, socketIo } from './page.js';

const START = '--set socketio.enabled=true';
const TRANSPORTS = { polling: 'polling', websocket: 'WebSocket' };

/** What Django's Emitter, python-socketio's RedisManager and Flask-SocketIO write for an event to everybody. */
function emit(event, text) {
  const message = { method: 'emit', event, data: [text], binary: false, namespace: '/', room: null, host_id: 'redis-cli' };
  return `${redisCli} PUBLISH ${shell(socketIo.channel)} ${shell(JSON.stringify(message))}`;
}

function fact(name, text) {
  document.querySelector(`[data-fact="${name}"]`).textContent = text;
}

/** JSON has no bytes: their number is shown. */
function bytes(_, value) {
  return value instanceof ArrayBuffer ? `${value.byteLength} bytes` : value;
}

async function connect() {
  const { io } = await import('../vendor/socket.io.esm.min.js');
  const socket = io({ path: socketIo.path });
  const arrived = bounded(byId('socketio-messages'), 50);
  const show = () => {
    fact('socketio-state', socket.connected ? `official, 4.8; connected by ${TRANSPORTS[socket.io.engine.transport.name]}` : 'official, 4.8; connecting');
    fact('socketio-id', socket.id ?? '–');
  };
  socket.on('connect', () => {
    note('Socket.IO', `connected as ${socket.id}`, 'open');
    socket.io.engine.once('upgrade', show);
    show();
  });
  socket.on('disconnect', (reason) => {
    note('Socket.IO', `disconnected: ${reason}`, 'closed');
    show();
  });
  socket.on('connect_error', (error) => {
    note('Socket.IO', `not connected: ${error.message}`, 'closed');
    show();
  });
  socket.onAny((event, ...values) => {
    const texts = values.map((value) => shown(typeof value === 'string' ? value : JSON.stringify(value, bytes)));
    arrived.add(element('b', event), ...texts);
  });
  show();
}

export function startSocketIo() {
  byId('socketio-off').hidden = socketIo.path !== '';
  byId('socketio-on').hidden = socketIo.path === '';
  if (socketIo.path === '') return byId('socketio-start').append(copyable('Start with Socket.IO', START));
  byId('socketio-cli').append(copyable('redis-cli: an event to everybody', emit('news', 'Hello')));
  byId('socketio-django').append(
    copyable('Django', "from ws4redis.socketio import Emitter\n\nEmitter().emit('news', 'Hello')"),
  );
  connect();
}
