// The official Socket.IO client at the same gateway. It is loaded only if the gateway serves Socket.IO.
import { follow } from './log.js';
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
  const line = follow('Socket.IO', true);
  // The client has no event that gives the delay.
  const { backoff } = socket.io;
  const duration = backoff.duration.bind(backoff);
  backoff.duration = () => {
    const delay = duration();
    line.waits(delay);
    return delay;
  };
  socket.io.on('reconnect_attempt', () => line.connecting());
  socket.on('connect', () => {
    line.opened(`connected as ${socket.id}`);
    socket.io.engine.once('upgrade', show);
    show();
  });
  socket.on('disconnect', (reason) => {
    // The gateway's and the page's own end are final; a refusal by the namespace is, too.
    if (!socket.active) line.ended(`disconnected: ${reason}`, true);
    else line.failed(`disconnected: ${reason}`);
    show();
  });
  socket.on('connect_error', (error) => {
    if (!socket.active) line.ended(`not connected: ${error.message}`, true);
    else line.failed(`not connected: ${error.message}`);
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
