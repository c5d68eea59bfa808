import react from '@vitejs/plugin-react';
import vue from '@vitejs/plugin-vue';

const input = ['react.jsx', 'react-use-websocket.jsx'];
for (const name of ['vue', 'vueuse', 'rxjs', 'partysocket', 'reconnecting-websocket', 'fetch-event-source']) input.push(`${name}.js`);
const target = process.env.GATEWAY ?? 'http://127.0.0.1:8000';

export default {
  plugins: [react(), vue()],
  // Django's {% static %} has to know the names.
  build: { rollupOptions: { input, output: { entryFileNames: '[name].js' } } },
  // For pages of the development server: `changeOrigin` stays off, so that the gateway sees the page's host.
  server: { proxy: { '/ws/': { target, ws: true, secure: false } } },
};
