// The socket of the form with the gateway: the session of the handshake counts, so that a login opens a new one.
const { sockets } = document.currentScript.dataset;

function openSocket(onMessage, onState) {
  let socket;
  const open = () =>
    new Promise((resolve) => {
      socket = WS4Redis.connect(`${sockets}chat`, { subscribe: 'broadcast' });
      socket.addEventListener('message', (message) => onMessage(message.json()));
      socket.addEventListener('state', ({ state }) => onState(state));
      socket.addEventListener('open', resolve, { once: true });
    });
  open();
  return {
    close: () => socket.close(),
    loggedIn() {
      socket.close();
      return open();
    },
  };
}
