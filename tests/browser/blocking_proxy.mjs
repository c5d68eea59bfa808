// A reverse proxy that refuses a settable number of WebSockets. It serves some pages itself.
import { createServer, request as forward } from 'node:http';
import { connect } from 'node:net';

/** Starts it on a free port. `pages` maps paths to texts with their types. */
export async function blockingProxy(gateway, pages) {
  const open = new Set();
  const proxy = {
    /** The number of further WebSockets to refuse. */
    refuse: Infinity,
    refused: 0,
    /** Resets all WebSockets. */
    cut: () => open.forEach((socket) => socket.destroy()),
    stop() {
      proxy.cut();
      server.closeAllConnections();
      return new Promise((resolve) => server.close(resolve));
    },
  };
  const server = createServer((request, response) => {
    const page = pages[request.url.split('?')[0]];
    if (page) return response.writeHead(200, { 'Content-Type': page.type }).end(page.text);
    const passed = forward(gateway + request.url, { method: request.method, headers: request.headers }, (answer) => {
      response.writeHead(answer.statusCode, answer.headers);
      response.flushHeaders();
      answer.pipe(response);
    });
    passed.on('error', () => response.destroy());
    response.on('close', () => passed.destroy());
    request.pipe(passed);
  });
  server.on('upgrade', (request, socket) => {
    if (proxy.refuse > 0) {
      proxy.refuse -= 1;
      proxy.refused += 1;
      return socket.end('HTTP/1.1 502 Bad Gateway\r\nConnection: close\r\nContent-Length: 0\r\n\r\n');
    }
    const { hostname, port } = new URL(gateway);
    const passed = connect(port, hostname, () => {
      const headers = request.rawHeaders.map((word, i) => word + (i % 2 ? '\r\n' : ': ')).join('');
      passed.write(`${request.method} ${request.url} HTTP/1.1\r\n${headers}\r\n`);
      socket.pipe(passed).pipe(socket);
    });
    open.add(socket);
    for (const [one, other] of [[socket, passed], [passed, socket]]) {
      one.on('error', () => other.destroy());
      one.on('close', () => open.delete(socket) && other.destroy());
    }
  });
  await new Promise((resolve) => server.listen(0, '127.0.0.1', resolve));
  proxy.origin = `http://127.0.0.1:${server.address().port}`;
  return proxy;
}
