// The data of messages: copies, base64, fingerprints.
import type { ws4redis } from './types';

/** The page may change a buffer before it is sent. Blobs cannot change. */
export function copyOf(data: any): string | Blob | ArrayBuffer {
  if (data?.byteLength >= 0) {
    return new Uint8Array(data.buffer ?? data, data.byteOffset, data.byteLength).slice().buffer;
  }
  return data?.arrayBuffer ? data : `${data}`;
}

export function bytesOf(base64: string): ArrayBuffer {
  return Uint8Array.from(atob(base64), (character) => character.charCodeAt(0)).buffer;
}

/** Equal for equal messages of both transports. Streams turn all line ends into line feeds. */
export function fingerprint(data: ws4redis.Data | string): string {
  const isText = typeof data === 'string';
  const bytes = isText ? new TextEncoder().encode(data.replace(/\r\n?/g, '\n')) : new Uint8Array(data);
  let a = 0;
  let b = +isText;
  for (const byte of bytes) {
    a = Math.imul(a ^ byte, 0x9e3779b1);
    b = Math.imul(b ^ byte ^ (a >>> 15), 0x5f356495);
  }
  return `${a} ${b} ${bytes.length}`;
}
