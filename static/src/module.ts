// The entry of the module. It sets no global, and the annotations let bundlers drop the APIs that a page does not use.
import { WS4Redis as constructor } from './legacy';
import { connect as ws4redis } from './modern';
import { connectPage as connect } from './page';

const WS4Redis = /* @__PURE__ */ Object.assign(constructor, { connect: ws4redis, page: connect });
const all = /* @__PURE__ */ Object.assign((...given: Parameters<typeof ws4redis>) => ws4redis(...given), { connect });

export { WS4Redis, connect, ws4redis, all as default };
