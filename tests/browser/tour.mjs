// Shared actions on the demo page.
import { DEADLINE_MS } from './chromium.mjs';

export const person = (page, number) => page.locator('#people .person').nth(number - 1);
export const side = (page, number) => page.locator('#echoes .person').nth(number - 1);
export const nameOf = (page, number) => person(page, number).locator('h3').textContent();
export const fact = (page, name) => page.locator(`[data-fact="${name}"]`).textContent();
export const snippet = (page, name) => page.locator(`[data-name="${name}"] code`);
export const texts = (list) => list.locator('.messages .text').allTextContents();
export const logged = (page) => page.locator('#log-lines .entry').allTextContents();

/** Waits until a list of messages contains this text. */
export function arrived(list, text) {
  return list.locator('.messages .text').filter({ hasText: text }).first().waitFor({ timeout: DEADLINE_MS });
}

/** Waits until the log has a line of this connection that contains these words. */
export function logs(page, name, words, timeout = DEADLINE_MS) {
  const ofName = page.locator('#log-lines .entry').filter({ has: page.locator(`b:text-is("${name}")`) });
  return ofName.filter({ hasText: words }).last().waitFor({ timeout });
}

export function overall(page, wanted, timeout = DEADLINE_MS) {
  return page.locator(`#overall[data-state="${wanted}"]`).waitFor({ timeout });
}

/** Sends a message in the chat; returns its displayed text. */
export async function sendInChat(page, number, text) {
  const field = person(page, number).locator('input');
  await field.fill(text);
  await field.press('Enter');
  return `${await nameOf(page, number)}: ${text}`;
}
