'use strict';

// Usage: node driver.js 1|2|4

const readline = require('node:readline');

const generation = process.argv[2];
const client = require(`socket.io-client-${generation}`);
const connect = typeof client === 'function' ? client : client.io;
const sockets = new Map();

function report(c, on, rest) {
  process.stdout.write(JSON.stringify({ c, on, ...rest }) + '\n');
}

// Old generations have no onAny: every packet passes through onevent.
function onAny(socket, listener) {
  if (socket.onAny) return socket.onAny(listener);
  const original = socket.onevent;
  socket.onevent = function onevent(packet) {
    listener(...packet.data);
    return original.call(this, packet);
  };
}

const commands = {
  connect({ c, url, transports }) {
    const socket = connect(url, { transports, reconnection: false, forceNew: true, rejectUnauthorized: false });
    sockets.set(c, socket);
    onAny(socket, (name, ...args) => report(c, 'event', { name, args }));
    socket.on('connect', () => {
      const { engine } = socket.io;
      report(c, 'connected');
      if (transports.length === 1) return;
      if (engine.transport.name === 'websocket') report(c, 'upgraded');
      else engine.on('upgrade', () => report(c, 'upgraded'));
    });
    socket.on('disconnect', (reason) => report(c, 'disconnected', { reason: String(reason) }));
    for (const name of ['connect_error', 'error']) {
      socket.on(name, (error) => report(c, 'error', { message: String((error && error.message) || error) }));
    }
  },
  emit({ c, event, args, ack }) {
    const answer = ack === undefined ? [] : [(...given) => report(c, 'ack', { ack, args: given })];
    sockets.get(c).emit(event, ...args, ...answer);
  },
  disconnect({ c }) {
    sockets.get(c).disconnect();
  },
};

readline
  .createInterface({ input: process.stdin })
  .on('line', (line) => {
    const command = JSON.parse(line);
    commands[command.do](command);
  })
  .on('close', () => process.exit(0));

report(0, 'ready');
