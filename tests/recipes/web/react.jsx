import { useEffect, useState } from 'react';
import { createRoot } from 'react-dom/client';
import { connect } from 'ws4redis';

const page = connect('/ws/');

function useMessages(facility, options) {
  const [messages, setMessages] = useState([]);
  useEffect(() => {
    const subscription = page.subscribe(facility, options);
    const show = (event) => setMessages((shown) => [...shown, event.json()]);
    subscription.addEventListener('message', show);
    return () => {
      subscription.removeEventListener('message', show);
      subscription.unsubscribe();
    };
  }, [facility]);
  return messages;
}

function Chat({ room }) {
  const messages = useMessages(`chat-${room}`, { last: 50 });
  return messages.map(({ id, author, text }) => (
    <li key={id}>
      {author}: {text}
    </li>
  ));
}

const app = document.getElementById('app');
createRoot(app).render(<Chat room={app.dataset.room} />);
