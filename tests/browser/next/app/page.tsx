import { connect } from 'ws4redis';
import { Chat } from './chat';

/** Runs when the site is built, without a page: the module can be imported there, a path cannot be connected to. */
function refusal() {
  try {
    connect('/ws/').close();
  } catch (error) {
    return (error as Error).message;
  }
  return '';
}

export default function Home() {
  return (
    <main>
      <p id="refusal">{refusal()}</p>
      <Chat />
    </main>
  );
}
