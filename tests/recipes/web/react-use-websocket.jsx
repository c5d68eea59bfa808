import { useState } from 'react';
import { createRoot } from 'react-dom/client';
import module from 'react-use-websocket';
import { address, isFinal } from './address.js';

// A CommonJS package: in a project with "type": "module" Vite gives its exports as the default one.
const useWebSocket = module.default ?? module;

function Chat({ room }) {
  const [messages, setMessages] = useState([]);
  useWebSocket(address(`chat-${room}`), {
    onMessage: ({ data }) => setMessages((shown) => [...shown, JSON.parse(data)]),
    shouldReconnect: ({ code }) => !isFinal(code),
    reconnectAttempts: Infinity,
    reconnectInterval: (attempt) => Math.random() * Math.min(2000 * 2 ** attempt, 30000),
  });
  return messages.map(({ id, author, text }) => (
    <li key={id}>
      {author}: {text}
    </li>
  ));
}

const app = document.getElementById('app');
createRoot(app).render(<Chat room={app.dataset.room} />);
