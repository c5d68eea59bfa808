import { createApp } from 'vue';
import Chat from './Chat.vue';

const app = document.getElementById('app');
createApp(Chat, { room: app.dataset.room }).mount(app);
