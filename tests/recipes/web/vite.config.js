import react from '@vitejs/plugin-react';
import vue from '@vitejs/plugin-vue';

const input = ['react.jsx', 'react-use-websocket.jsx'];
for (const name of ['vue', 'vueuse', 'rxjs', 'partysocket', 'reconnecting-websocket', 'fetch-event-source']) input.push(`${name}.js`);

export default {
  plugins: [react(), vue()],
  // Django's {% static %} has to know the names.
  build: { rollupOptions: { input, output: { entryFileNames: '[name].js' } } },
};
