// Opens a WebSocket.
import { lost } from './codes';
import type { Transport } from './connection';

/** Never throws: what the constructor throws becomes a close event, as any other failed attempt. */
export function openWebSocket(url: string, protocols: string[] = []): Transport {
  try {
    const socket = new WebSocket(url, protocols);
    // Reading Blobs is asynchronous, which would reorder messages.
    socket.binaryType = 'arraybuffer';
    return socket as unknown as Transport;
  } catch (error) {
    const { name, message } = error as Error;
    // `ws:` on a page of `https:`, or an invalid address, fails each time. Another token may be valid as a subprotocol.
    const useless = name === 'SecurityError' || (name === 'SyntaxError' && !protocols.length);
    const failed = { readyState: 3, send() {}, close() {} } as unknown as Transport;
    queueMicrotask(() => failed.onclose({ ...lost(`${name}: ${message}`), useless, error }));
    return failed;
  }
}

/** Closes a transport whose further events have no effect. */
export function discard(transport: Transport): void {
  transport.onopen = transport.onmessage = transport.onalive = transport.onclose = () => {};
  transport.close();
}
