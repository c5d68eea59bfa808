//! The link between a shard and a broker: events of the broker reach the hub and the visitors, subscription requests of the
//! hub reach the broker.

use std::collections::HashMap;
use std::rc::Rc;

use foldhash::fast::RandomState;
use tokio::sync::mpsc;

use super::doctor;
use super::state::ShardState;
use crate::broker::{BrokerEvent, Call};
use crate::hub::{Hub, Run, SharedHub};
use crate::wire::Channel;

/// Capacity of a shard's queue of broker events. A batch of messages has up to 1 MiB.
pub const INBOX: usize = 64;

/// Events that are taken from the queue together.
const MAX_TAKEN: usize = INBOX;

/// A shard's ends of the link to a broker.
#[derive(Debug)]
pub struct BrokerLink {
    /// Events of the broker.
    pub inbox: mpsc::Receiver<BrokerEvent>,
    /// Subscription requests to the broker.
    pub calls: mpsc::Sender<Call>,
}

/// Handles the events of the messages' broker. Runs of a channel that wait in the queue together are joined, to be sent
/// with one write.
pub(super) async fn deliver(state: Rc<ShardState>, mut inbox: mpsc::Receiver<BrokerEvent>) {
    let mut waiting = Vec::with_capacity(MAX_TAKEN);
    while inbox.recv_many(&mut waiting, MAX_TAKEN).await > 0 {
        let mut batches = Vec::new();
        for event in waiting.drain(..) {
            match event {
                BrokerEvent::Deliver(runs) => batches.push(runs),
                event => {
                    // Events apply in order: messages before them are delivered first.
                    deliver_batches(&state, &mut batches);
                    handle(&state, event);
                }
            }
        }
        deliver_batches(&state, &mut batches);
    }
}

/// Handles the events of the broker of the sessions' Redis.
pub(super) async fn deliver_session_events(state: Rc<ShardState>, mut inbox: mpsc::Receiver<BrokerEvent>) {
    while let Some(event) = inbox.recv().await {
        handle_for(&state, &state.session_hub, event);
    }
}

/// Sends the subscription requests of a hub to its broker.
pub(super) async fn send_requests(number: usize, hub: Rc<SharedHub>, calls: mpsc::Sender<Call>) {
    loop {
        let requests = hub.requests().await;
        if calls.send((number, requests)).await.is_err() {
            return;
        }
    }
}

fn deliver_batches(state: &ShardState, batches: &mut Vec<Vec<(Channel, Run)>>) {
    let runs = if batches.len() > 1 { join(batches.drain(..)) } else { batches.pop().unwrap_or_default() };
    state.hub.with(|hub| runs.into_iter().for_each(|(channel, run)| hub.deliver(&channel.into(), run)));
}

/// Handles an event of the messages' broker.
fn handle(state: &Rc<ShardState>, event: BrokerEvent) {
    match &event {
        BrokerEvent::Up => state.redis_up.set(true),
        BrokerEvent::Lost => state.redis_up.set(false),
        _ => {}
    }
    match event {
        BrokerEvent::Hints(hints) => state.visitors.leases().hint(&hints),
        BrokerEvent::Asked(query) => doctor::answer(state.clone(), query),
        event => handle_for(state, &state.hub, event),
    }
}

/// Handles an event of the broker that serves this hub.
fn handle_for(state: &ShardState, hub: &Rc<SharedHub>, event: BrokerEvent) {
    let leases = state.visitors.leases();
    match event {
        BrokerEvent::Subscribed(channels) => hub.with(|hub| {
            for (channel, generation) in channels {
                hub.subscribed(&channel.into(), generation);
            }
        }),
        BrokerEvent::Regained(channel) => hub.with(|hub| hub.regained(&channel.into())),
        BrokerEvent::Refused(channel, generation) => {
            hub.with(|hub| hub.refused(&channel.into(), generation));
        }
        BrokerEvent::Up | BrokerEvent::Overlooked => leases.revalidate_all(),
        BrokerEvent::Lost => hub.with(Hub::lost),
        BrokerEvent::Pause => hub.with(Hub::pause),
        BrokerEvent::Recovered(values) => hub.with(|hub| {
            for (channel, value) in values {
                hub.recover(&channel.into(), value.as_ref());
            }
        }),
        BrokerEvent::Events(events) if Rc::ptr_eq(&state.session_hub, hub) => leases.set_events(events),
        BrokerEvent::KeyEvents(channels) => {
            for (channel, key_event) in channels {
                leases.key_changed(&channel, key_event);
            }
        }
        // Handled by the caller, or about a Redis without sessions.
        BrokerEvent::Events(_) | BrokerEvent::Deliver(_) | BrokerEvent::Hints(_) | BrokerEvent::Asked(_) => {}
    }
}

/// Joins the runs of each channel, in order.
fn join(batches: impl Iterator<Item = Vec<(Channel, Run)>>) -> Vec<(Channel, Run)> {
    let mut indices = HashMap::<Channel, usize, RandomState>::default();
    let mut joined: Vec<(Channel, Vec<Run>)> = Vec::new();
    for (channel, run) in batches.flatten() {
        let index = *indices.entry(channel.clone()).or_insert(joined.len());
        if index == joined.len() {
            joined.push((channel, Vec::new()));
        }
        joined[index].1.push(run);
    }
    joined.into_iter().filter_map(|(channel, runs)| Some((channel, Run::join(runs)?))).collect()
}
