// Starts deployment.py and calls its methods.
import { spawn } from 'node:child_process';
import { createInterface } from 'node:readline';
import { fileURLToPath } from 'node:url';

/**
 * Starts the servers behind the browsers; they stop at the end of the run. `do(name, …)` calls a method of the class in
 * deployment.py.
 */
export async function startDeployment(proxy, firstPort, atEnd) {
  const script = fileURLToPath(new URL('deployment.py', import.meta.url));
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
    if (done) throw new Error('deployment.py has ended');
    const reply = JSON.parse(value);
    if (reply.error) throw new Error(reply.error);
    return reply.answer;
  }

  const addresses = await answer();
  return {
    ...addresses,
    origin: `https://${addresses.host}`,
    do(...words) {
      const response = queue.then(() => {
        python.stdin.write(`${JSON.stringify(words)}\n`);
        return answer();
      });
      queue = response.catch(() => {});
      return response;
    },
  };
}
