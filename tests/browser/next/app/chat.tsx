'use client';

import { useEffect, useRef, useState } from 'react';
import { connect, ws4redis, type Options, type Page, type Socket, type State } from 'ws4redis';

const OPTIONS: Options = { subscribe: 'broadcast', publish: 'broadcast', echo: true };

export function Chat() {
  const socket = useRef<Socket | null>(null);
  const [state, setState] = useState<State>('waiting');
  const [isSubscribed, setSubscribed] = useState(false);
  const [messages, setMessages] = useState<string[]>([]);

  useEffect(() => {
    const add = (text: string) => setMessages((shown) => [...shown, text]);
    const facility = location.hash.slice(1);
    const own = ws4redis(`/ws/${facility}`, OPTIONS);
    own.addEventListener('state', (event) => setState(event.state));
    own.addEventListener('message', ({ data }) => add(`socket: ${data}`));
    socket.current = own;
    const page: Page = connect('/ws/');
    const subscription = page.subscribe(facility, { subscribe: 'broadcast' });
    subscription.addEventListener('message', ({ data }) => add(`page: ${data}`));
    subscription.addEventListener('subscribed', () => setSubscribed(true));
    return () => {
      own.close();
      page.close();
    };
  }, []);

  return (
    <>
      <button type="button" onClick={() => socket.current?.send('Hello from Next')}>
        Send
      </button>
      <p id="state">
        {state}, {isSubscribed ? 'subscribed' : 'not subscribed'}
      </p>
      <ul>
        {messages.map((text, place) => (
          <li key={place}>{text}</li>
        ))}
      </ul>
    </>
  );
}
