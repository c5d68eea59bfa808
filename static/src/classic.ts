// The entry of the classic script. It sets one global, as upstream's file does; pages may have their own `ws4redis`.
import { WS4Redis } from './legacy';
import { connect } from './modern';

WS4Redis.connect = connect;
Object.assign(globalThis, { WS4Redis });
