//! Events of clients that the bridges wait for.

use super::{messenger, yunity};
use crate::engine::EngineSession;
use crate::shard::state::ShardState;
use crate::wire::socket_io::SocketPacket;

/// What an event means to a bridge.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum BridgeEvent {
    /// A client of yunity-sockets names its session.
    Authenticate,
    /// A client of the messenger reports itself.
    Report,
}

/// Returns what an event of a client means to the bridges of its mount. Both systems have the main namespace only.
pub(super) fn bridge_event(
    session: &EngineSession,
    state: &ShardState,
    packet: SocketPacket<'_>,
    name: &str,
) -> Option<BridgeEvent> {
    let settings = &state.process.settings.socket_io;
    let mount = settings.mount(session.mount).filter(|_| packet.namespace == "/")?;
    if mount.yunity && name == yunity::AUTHENTICATE {
        return Some(BridgeEvent::Authenticate);
    }
    let gathers = mount.messenger && settings.messenger.connections_key.is_some();
    (gathers && name == messenger::ACTION && messenger::is_report(packet)).then_some(BridgeEvent::Report)
}
