// A fake gateway that refuses WebSockets: the server side of the fallback. Tests set its responses.
import { createServer } from 'node:http';

/** Starts it on a free port. `pages` maps paths to texts with their types. */
export async function fakeGateway(pages = {}) {
  const gateway = {
    /** The responses to the next GETs; the last one repeats: `{status, headers, body}`, or null for a stream. */
    answers: [null],
    /** Returns the status of the response to a POST. */
    postStatus: () => 204,
    /** The requests for /ws/…: `{method, url, headers, body}`. */
    requests: [],
    /** The response to the client's question for its identity, which an old gateway refuses. */
    identity: { status: 400, headers: { 'Content-Type': 'text/plain' }, body: 'no upgrade\n' },
    /** The URLs of these questions. */
    questions: [],
    /** The URLs of refused upgrades. */
    upgrades: [],
    /** The open streams. */
    streams: new Set(),
  };

  const server = createServer(async (request, response) => {
    const { method, url, headers } = request;
    const page = pages[url.split('?')[0]];
    if (page) return response.writeHead(200, { 'Content-Type': page.type }).end(page.text);
    if (!url.startsWith('/ws/')) return response.writeHead(404).end();
    if (headers.accept === 'application/json') {
      gateway.questions.push(url);
      const { status, headers, body } = gateway.identity;
      return response.writeHead(status, headers).end(body);
    }
    const parts = [];
    for await (const part of request) parts.push(part);
    gateway.requests.push({ method, url, headers, body: Buffer.concat(parts) });
    if (method === 'POST') return response.writeHead(await gateway.postStatus(gateway.requests.at(-1))).end();
    const answer = gateway.answers.length > 1 ? gateway.answers.shift() : gateway.answers[0];
    if (answer) return response.writeHead(answer.status, answer.headers).end(answer.body);
    response.writeHead(200, { 'Content-Type': 'text/event-stream; charset=utf-8', 'Cache-Control': 'no-store' });
    response.write('retry: 3000\n\n');
    response.on('close', () => gateway.streams.delete(response));
    gateway.streams.add(response);
  });
  server.on('upgrade', (request, socket) => {
    gateway.upgrades.push(request.url);
    socket.end('HTTP/1.1 502 Bad Gateway\r\nConnection: close\r\nContent-Length: 0\r\n\r\n');
  });
  await new Promise((resolve) => server.listen(0, '127.0.0.1', resolve));

  gateway.origin = `http://127.0.0.1:${server.address().port}`;
  gateway.write = (text) => gateway.streams.forEach((stream) => stream.write(text));
  gateway.endStreams = () => gateway.streams.forEach((stream) => stream.end());
  gateway.stop = () => {
    server.closeAllConnections();
    return new Promise((resolve) => server.close(resolve));
  };
  return gateway;
}
