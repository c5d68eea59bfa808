//! Losses of messages: a facility with a history reads on, of another the client is told.

use std::rc::Rc;

use super::client::{LiveClient, send};
use super::subscribe::read_on;
use crate::hub::Listener;
use crate::shard::state::ShardState;
use crate::wire::live::gap;

/// Notes losses that the hub has reported, and tells the client of those that are over: only then the state that it loads
/// cannot miss another message.
pub(super) fn send_gaps(client: &mut LiveClient, listener: &Rc<Listener>, state: &Rc<ShardState>) {
    if listener.take_loss() {
        for position in 0..client.facilities.len() {
            let facility = &mut client.facilities[position];
            let Some(subscription) = facility.subscription.as_ref() else {
                facility.owes_gap |= facility.replaces_open && !facility.is_open;
                continue;
            };
            if let Some(ids) = subscription.last_ids() {
                let ids =
                    ids.into_iter().filter_map(|(topic, last)| Some((topic.channel()?, last))).collect();
                read_on(client, position, ids, listener, state);
            } else {
                // One without channels to listen to can lose nothing.
                facility.owes_gap |= !facility.subscribes.is_empty();
            }
        }
    }
    // While messages wait, more of them may be dropped.
    if listener.has_queued() {
        return;
    }
    for facility in client.facilities.iter_mut().filter(|facility| facility.owes_gap) {
        let is_live = || {
            facility
                .subscribes
                .iter()
                .all(|channel| state.hub.with(|hub| hub.is_live(&channel.clone().into())))
        };
        if facility.subscription.is_some() && is_live() {
            facility.owes_gap = false;
            send(listener, state, &gap(facility.handshake.facility.as_str()));
        }
    }
}
