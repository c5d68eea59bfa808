import { EventStreamContentType, fetchEventSource } from '@microsoft/fetch-event-source';
import { isFinal } from './address.js';
import { room, show } from './page.js';

class Refused extends Error {}

fetchEventSource(`/ws/chat-${room}?subscribe-broadcast&client=ws4redis`, {
  openWhenHidden: true,
  async onopen(response) {
    if (response.status === 403) throw new Refused();
    if (!response.headers.get('content-type')?.startsWith(EventStreamContentType)) throw new Error(response.status);
  },
  onmessage({ event, data }) {
    if (event === 'close' && isFinal(JSON.parse(data).code)) throw new Refused();
    // A line `retry:` comes as a message without data.
    if (event === '' && data) show(JSON.parse(data));
  },
  onclose() {
    // Without an error it does not reconnect.
    throw new Error('the stream has ended');
  },
  onerror(error) {
    if (error instanceof Refused) throw error;
    return 1000 + 4000 * Math.random();
  },
});
