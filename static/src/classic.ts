// The entry of the classic script. It sets one global, as upstream's file does; pages may have their own `ws4redis`.
import { WS4Redis } from './legacy';
import { connect } from './modern';
import { connectPage } from './page';

WS4Redis.connect = connect;
WS4Redis.page = connectPage;
Object.assign(globalThis, { WS4Redis });
