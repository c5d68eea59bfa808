/// <reference path="./ws4redis.d.ts" />

// The same names as ws4redis.js declares, as exports of ws4redis.mjs.
import both = ws4redis;
import old = WS4Redis;
export { both as ws4redis, old as WS4Redis, both as default };
