// The entry of the module. It sets no global, and the annotation lets bundlers drop an unused legacy API.
import { WS4Redis as constructor } from './legacy';
import { connect } from './modern';

const WS4Redis = /* @__PURE__ */ Object.assign(constructor, { connect });

export { WS4Redis, connect as ws4redis, connect as default };
