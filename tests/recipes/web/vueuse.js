import { createApp } from 'vue';
import Chat from './VueUse.vue';

const app = document.getElementById('app');
createApp(Chat, { room: app.dataset.room }).mount(app);
