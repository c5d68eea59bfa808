// Chromium and Firefox through one driver, with host names that resolve to a local port.
//
// CHROMIUM, FIREFOX   the browsers, default /usr/bin/chromium and /usr/bin/firefox-esr
import { existsSync } from 'node:fs';
import puppeteer from 'puppeteer-core';

const PATHS = {
  chromium: process.env.CHROMIUM ?? '/usr/bin/chromium',
  firefox: process.env.FIREFOX ?? '/usr/bin/firefox-esr',
};
const START_MS = 60_000;
const ANSWER_MS = 30_000;

/** Starts a browser in a new profile. It reaches `hosts` on port 443 and accepts any certificate. */
export function launch(name, hosts, port) {
  const executablePath = PATHS[name];
  if (!existsSync(executablePath))
    throw new Error(`${executablePath} is missing: install Debian's package, or set ${name.toUpperCase()}`);
  const common = { executablePath, headless: true, acceptInsecureCerts: true, timeout: START_MS, protocolTimeout: ANSWER_MS };
  if (name === 'firefox') {
    return puppeteer.launch({
      ...common,
      browser: 'firefox',
      extraPrefsFirefox: {
        'network.dns.localDomains': hosts.join(),
        'network.socket.forcePort': `443=${port}`,
      },
    });
  }
  return puppeteer.launch({
    ...common,
    browser: 'chrome',
    args: [
      `--host-resolver-rules=${hosts.map((host) => `MAP ${host}:443 127.0.0.1:${port}`).join()}`,
      '--no-sandbox',
      '--disable-gpu',
      '--disable-quic',
    ],
  });
}
