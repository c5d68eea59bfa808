//! Gaps: the client is told that messages of a facility may have been lost.

use super::client::{LiveClient, send};
use crate::hub::Listener;
use crate::shard::state::ShardState;
use crate::wire::live::gap;

/// Notes losses that the hub has reported, and tells the client of those that are over: only then the state that it loads
/// cannot miss another message.
pub(super) fn send_gaps(client: &mut LiveClient, listener: &Listener, state: &ShardState) {
    if listener.take_loss() {
        let open = client.facilities.iter_mut().filter(|facility| facility.is_open);
        // One without channels to listen to can lose nothing.
        open.for_each(|facility| facility.owes_gap |= !facility.subscribes.is_empty());
    }
    // While messages wait, more of them may be dropped.
    if listener.has_queued() {
        return;
    }
    for facility in client.facilities.iter_mut().filter(|facility| facility.owes_gap) {
        if client.subscription.are_live(&facility.subscribes) {
            facility.owes_gap = false;
            send(listener, state, &gap(facility.handshake.facility.as_str()));
        }
    }
}
