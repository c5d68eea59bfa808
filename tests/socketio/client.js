// Connects with an official client and writes what happens, one JSON array a line, until its input ends.
//
//     node client.js MAJOR URL TRANSPORTS [reconnect]

'use strict';

const [major, url, transports, option] = process.argv.slice(2);
const io = require(`socket.io-client-${major}`);
const write = (...values) => console.log(JSON.stringify(values));
const socket = io(url, { transports: transports.split(','), forceNew: true, reconnection: option === 'reconnect', reconnectionDelay: 100 });
const plain = (value) =>
  Buffer.isBuffer(value) || value instanceof ArrayBuffer ? { bytes: Buffer.from(value).toString('hex') } : value;

// Versions 1 and 2 set the id after the event.
socket.on('connect', () => setTimeout(() => write('connect', socket.id), 10));
socket.on('connect_error', (error) => write('connect_error', String(error)));
socket.on('error', (error) => write('error', String(error)));
socket.on('disconnect', (reason) => write('disconnect', reason));
socket.on('news', (...values) => write('news', socket.io.engine.transport.name, ...values.map(plain)));
socket.on('question', (number, answer) => answer({ twice: 2 * number }));
socket.on('upload', () => socket.emit('file', 'ż€', Buffer.from([9, 8]), () => {}));
process.stdin.on('end', () => process.exit(0)).resume();
