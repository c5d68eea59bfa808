/*! ws4redis.mjs: ws4redis.js as a module. MIT licence. */
import './ws4redis.js';

export const { WS4Redis, ws4redis } = globalThis;
export default ws4redis;
