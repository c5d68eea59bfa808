//! Losses of messages: a facility with a history reads on, of another the client is told. Who is there is told again.

use std::rc::Rc;
use std::time::Duration;

use tokio::time::Instant;

use super::answers::Answers;
use super::client::LiveClient;
use super::facility::LiveFacility;
use super::presence::take_here;
use super::subscribe::read_on;
use crate::hub::{Listener, Subscription};
use crate::metrics::{ShardCells, cells};
use crate::shard::state::ShardState;
use crate::wire::live::gap;

/// Shortest time between gaps that are queued behind other messages: a client that does not read must not collect them.
const PAUSE: Duration = Duration::from_secs(10);

/// Notes losses that the hub has reported, and tells the client of those that are over: only then the state that it loads
/// cannot miss another message.
pub(super) fn send_gaps(client: &mut LiveClient, listener: &Rc<Listener>, state: &Rc<ShardState>) {
    if listener.losses.take_of_channels() {
        let dropped = listener.counts().1;
        let has_dropped = std::mem::replace(&mut client.dropped, dropped) != dropped;
        for position in 0..client.facilities.len() {
            let facility = &mut client.facilities[position];
            if let Some(place) = &mut facility.place {
                place.owes_here = true;
            }
            let Some(subscription) = facility.subscription.as_ref() else {
                let has_lost_others = facility.replaces_open && !facility.is_open;
                facility.owes_gap |= has_lost_others || (has_dropped && facility.is_open);
                continue;
            };
            if let Some(ids) = subscription.last_ids() {
                // It reads on behind what its own outbox has dropped.
                facility.owes_gap |= has_dropped;
                let ids =
                    ids.into_iter().filter_map(|(topic, last)| Some((topic.channel()?, last))).collect();
                read_on(client, position, ids, listener, state);
            } else {
                // One without channels to listen to can lose nothing.
                facility.owes_gap |= !facility.subscribes.is_empty();
            }
        }
    }
    if listener.losses.take_of_layer() {
        for facility in &mut client.facilities {
            let hears_groups = facility.layer.as_ref().is_some_and(|layer| layer.hears_groups());
            // One that is being replaced has handed its groups over to the join.
            facility.owes_gap |= hears_groups || (facility.replaces_open && !facility.is_open);
        }
    }
    // While messages wait, more of them may be dropped, and an outbox need not be empty for a long time.
    let is_recent = |at: Instant| at.elapsed() < PAUSE;
    if listener.has_queued() && client.gap_at.is_some_and(is_recent) {
        return;
    }
    let mut gaps = Answers::default();
    let owes = |facility: &&mut LiveFacility| {
        facility.owes_gap || facility.place.as_ref().is_some_and(|place| place.owes_here)
    };
    for facility in client.facilities.iter_mut().filter(owes) {
        let is_layer_live = facility.layer.as_ref().is_none_or(|layer| layer.is_live());
        if is_layer_live && facility.subscription.as_ref().is_some_and(Subscription::is_live) {
            if std::mem::take(&mut facility.owes_gap) {
                gaps.add(&gap(facility.name()), listener.form);
                cells(|cells| ShardCells::add(&cells.gaps, 1));
            }
            if let Some(here) = take_here(facility) {
                gaps.add(&here, listener.form);
            }
            client.gap_at = Some(Instant::now());
        }
    }
    gaps.flush(listener, state);
}
