// The socket of the form with Channels: it stays open at a login, which is a message.
function openSocket(onMessage, onState) {
  const socket = new WebSocket(`ws://${location.host}/ws/chat/`);
  let onLogin;
  socket.onopen = () => onState('open');
  socket.onclose = () => onState('closed');
  socket.onmessage = ({ data }) => {
    const message = JSON.parse(data);
    if (message.type === 'logged_in') onLogin?.();
    else onMessage(message);
  };
  return {
    close: () => socket.close(),
    /** Resolves when the consumer has joined the chats of the user. */
    loggedIn(token) {
      socket.send(JSON.stringify({ type: 'login', token }));
      return new Promise((resolve) => (onLogin = resolve));
    },
  };
}
