// Connects with an official client to the path of a bridge, sends the events that its input names, one JSON array a line, and
// writes what happens.
//
//     node bridge.js MAJOR URL PATH TRANSPORTS EVENT...

'use strict';

const readline = require('readline');

const [major, url, path, transports, ...events] = process.argv.slice(2);
const io = require(`socket.io-client-${major}`);
const write = (...values) => console.log(JSON.stringify(values));
const socket = io(url, { path, transports: transports.split(','), forceNew: true, reconnection: false });

// Versions 1 and 2 set the id after the event.
socket.on('connect', () => setTimeout(() => write('connect', socket.id), 10));
socket.on('connect_error', (error) => write('connect_error', String(error)));
socket.on('error', (error) => write('error', String(error)));
socket.on('disconnect', (reason) => write('disconnect', reason));
for (const event of events) socket.on(event, (...values) => write(event, ...values));
const input = readline.createInterface({ input: process.stdin });
input.on('line', (line) => socket.emit(...JSON.parse(line))).on('close', () => process.exit(0));
