/*! ws4redis.mjs: ws4redis.js as a module. MIT licence. */
import './ws4redis.js';

export const { WS4Redis } = globalThis;
export const ws4redis = WS4Redis.connect;
export default ws4redis;
