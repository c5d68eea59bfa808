// world.py, started and asked from here.
import { spawn } from 'node:child_process';
import { createInterface } from 'node:readline';
import { fileURLToPath } from 'node:url';

/**
 * Starts all that stands behind the browsers, until the end. Any method of World in world.py may be called, as
 * `world.do(name, …)`.
 */
export async function openWorld(proxy, firstPort, atEnd) {
  const script = fileURLToPath(new URL('world.py', import.meta.url));
  const python = spawn(process.env.SITE_PYTHON ?? 'python3', [script, proxy, String(firstPort)], {
    stdio: ['pipe', 'pipe', 'inherit'],
  });
  const ended = new Promise((resolve) => python.on('close', resolve));
  atEnd.push(() => {
    python.stdin.end();
    return ended;
  });
  const lines = createInterface({ input: python.stdout })[Symbol.asyncIterator]();
  let queue = Promise.resolve();

  async function answer() {
    const { done, value } = await lines.next();
    if (done) throw new Error('world.py has ended');
    const reply = JSON.parse(value);
    if (reply.error) throw new Error(reply.error);
    return reply.answer;
  }

  const where = await answer();
  return {
    ...where,
    origin: `https://${where.host}`,
    do(...words) {
      const asked = queue.then(() => {
        python.stdin.write(`${JSON.stringify(words)}\n`);
        return answer();
      });
      queue = asked.catch(() => {});
      return asked;
    },
  };
}
