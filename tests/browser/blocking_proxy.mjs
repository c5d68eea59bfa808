// A proxy that lets no WebSocket through, before a gateway. It answers some paths itself.
import { createServer, request as ask } from 'node:http';

/** Starts one on a free port. `pages` are texts by path, each with its type. */
export async function blockingProxy(gateway, pages) {
  const server = createServer((request, response) => {
    const page = pages[request.url.split('?')[0]];
    if (page) return response.writeHead(200, { 'Content-Type': page.type }).end(page.text);
    const passed = ask(gateway + request.url, { method: request.method, headers: request.headers }, (answer) => {
      response.writeHead(answer.statusCode, answer.headers);
      response.flushHeaders();
      answer.pipe(response);
    });
    passed.on('error', () => response.destroy());
    response.on('close', () => passed.destroy());
    request.pipe(passed);
  });
  server.on('upgrade', (request, socket) => {
    socket.end('HTTP/1.1 502 Bad Gateway\r\nConnection: close\r\nContent-Length: 0\r\n\r\n');
  });
  await new Promise((resolve) => server.listen(0, '127.0.0.1', resolve));
  return {
    origin: `http://127.0.0.1:${server.address().port}`,
    stop() {
      server.closeAllConnections();
      return new Promise((resolve) => server.close(resolve));
    },
  };
}
