// The page of both forms.
const field = (name) => document.querySelector(`[name=${name}]`);
const show = (id, text) => (document.getElementById(id).value = text);

function onMessage({ type, message }) {
  if (type !== 'chat_message') return;
  const item = document.createElement('li');
  item.textContent = `${message.author}: ${message.text}`;
  document.getElementById('log').append(item);
}

async function call(method, path, data) {
  const csrf = document.cookie.match(/csrftoken=(\w+)/)[1];
  const headers = { 'Content-Type': 'application/json', 'X-CSRFToken': csrf };
  const response = await fetch(path, { method, headers, body: JSON.stringify(data ?? {}) });
  if (!response.ok) throw new Error(`${path}: ${response.status}`);
  const text = await response.text();
  return text && JSON.parse(text);
}

const onState = (state) => show('state', state);
let socket = openSocket(onMessage, onState);

document.getElementById('login').onsubmit = async (event) => {
  event.preventDefault();
  const { user, token } = await call('POST', '/api/login/', {
    username: field('username').value,
    password: field('password').value,
  });
  await socket.loggedIn(token);
  show('user', user);
};
document.getElementById('logout').onclick = async () => {
  await call('POST', '/api/logout/');
  socket.close();
  socket = openSocket(onMessage, onState);
  show('user', '');
};
document.getElementById('say').onsubmit = async (event) => {
  event.preventDefault();
  await call('POST', '/api/messages/', { chat: Number(field('chat').value), text: field('text').value });
};
const membership = (method) => () => call(method, `/api/chats/${field('chat').value}/membership/`);
document.getElementById('join').onclick = membership('POST');
document.getElementById('leave').onclick = membership('DELETE');
