// What the pages without a framework share: the element with the name of the room, and the list of messages.
const app = document.getElementById('app');

export const { room } = app.dataset;

export function show({ author, text }) {
  const item = document.createElement('li');
  item.textContent = `${author}: ${text}`;
  app.append(item);
}
