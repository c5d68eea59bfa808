//! The link between a shard and a broker: events of the broker reach the hub and the visitors, subscription requests of the
//! hub reach the broker.

use std::collections::HashMap;
use std::rc::Rc;
use std::sync::Arc;

use foldhash::fast::RandomState;
use tokio::sync::mpsc;
use tokio::time::Instant;

use super::doctor;
use super::state::ShardState;
use crate::broker::{BrokerEvent, Call, GroupsEvent, RoutedDirective, SubscriptionEvent};
use crate::dialects::socket_io;
use crate::hub::{Hub, Run, SharedHub};
use crate::metrics::cells;
use crate::wire::{Channel, Invalidation};

/// Capacity of a shard's queue of broker events. A batch of messages has up to 1 MiB.
pub const INBOX: usize = 64;

/// Events that are taken from the queue together.
const MAX_TAKEN: usize = INBOX;

/// A shard's ends of the link to a broker.
#[derive(Debug)]
pub struct BrokerLink<E> {
    /// Events of the broker.
    pub inbox: mpsc::Receiver<E>,
    /// Subscription requests to the broker.
    pub calls: mpsc::Sender<Call>,
}

/// Events that are joined with those that follow, of one kind at a time.
#[derive(Default)]
struct HeldEvents {
    batches: Vec<Vec<(Channel, Run)>>,
    /// When the first message of the batches arrived.
    arrived: Option<Instant>,
    directives: Vec<Arc<[RoutedDirective]>>,
}

/// Handles the events of the messages' broker. Runs of a channel that wait in the queue together are joined, to be sent
/// with one write.
pub(super) async fn deliver(state: Rc<ShardState>, mut inbox: mpsc::Receiver<BrokerEvent>) {
    let mut waiting = Vec::with_capacity(MAX_TAKEN);
    while inbox.recv_many(&mut waiting, MAX_TAKEN).await > 0 {
        let mut held = HeldEvents::default();
        for event in waiting.drain(..) {
            handle(&state, event, &mut held);
        }
        deliver_batches(&state, &mut held);
        apply_directives(&state, &mut held.directives);
    }
}

/// Handles the events of the broker of the sessions' Redis.
pub(super) async fn deliver_session_events(
    state: Rc<ShardState>,
    mut inbox: mpsc::Receiver<SubscriptionEvent>,
) {
    while let Some(event) = inbox.recv().await {
        handle_subscription_event(&state, &state.session_hub, event);
    }
}

/// Handles the events of the groups of Django Channels.
pub(super) async fn deliver_groups(hub: Rc<SharedHub>, mut inbox: mpsc::Receiver<GroupsEvent>) {
    while let Some(event) = inbox.recv().await {
        hub.with(|hub| match event {
            GroupsEvent::Deliver(runs) => runs.into_iter().for_each(|(topic, run)| hub.deliver(&topic, run)),
            GroupsEvent::Subscribed(topics) => {
                for (topic, generation) in topics {
                    hub.on_subscribed(&topic, generation);
                    // Nothing is read again after a loss.
                    hub.recover(&topic, None);
                }
            }
            GroupsEvent::Refused(topic, generation) => hub.on_refused(&topic, generation),
            GroupsEvent::Missed(topics) => topics.iter().for_each(|topic| hub.on_missed(topic)),
            GroupsEvent::Lost => hub.on_lost(),
        });
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

fn deliver_batches(state: &ShardState, HeldEvents { batches, arrived, .. }: &mut HeldEvents) {
    let runs = if batches.len() > 1 { join(batches.drain(..)) } else { batches.pop().unwrap_or_default() };
    state.hub.with(|hub| runs.into_iter().for_each(|(channel, run)| hub.deliver(&channel.into(), run)));
    if let Some(arrived) = arrived.take() {
        cells(|cells| cells.delivery_times.observe_time(arrived.elapsed()));
    }
}

/// Carries out what Django asks for, as far as it is for this shard. Directives that wait in the queue together are joined
/// where they can be.
fn apply_directives(state: &ShardState, waiting: &mut Vec<Arc<[RoutedDirective]>>) {
    if !waiting.is_empty() {
        let own = waiting.iter().flat_map(|directives| directives.iter());
        let own = own.filter(|routed| routed.shards >> state.number & 1 == 1);
        socket_io::apply(state, own.map(|routed| (routed.mounts, &routed.directive)));
        // Only now: until then their rooms count as expected.
        waiting.clear();
    }
}

/// Handles an event of the messages' broker. Messages and directives are held, to be joined; before any other event is
/// applied, they are delivered, since events apply in order.
fn handle(state: &Rc<ShardState>, event: BrokerEvent, held: &mut HeldEvents) {
    if !matches!(event, BrokerEvent::Deliver(..)) {
        deliver_batches(state, held);
    }
    if !matches!(event, BrokerEvent::Directives(_)) {
        apply_directives(state, &mut held.directives);
    }
    match event {
        BrokerEvent::Deliver(runs, arrived) => {
            held.arrived.get_or_insert(arrived);
            held.batches.push(runs);
        }
        BrokerEvent::Regained(channel) => state.hub.with(|hub| hub.on_regained(&channel.into())),
        BrokerEvent::Pause => state.hub.with(Hub::pause),
        BrokerEvent::Recovered(values) => state.hub.with(|hub| {
            for (channel, value) in values {
                hub.recover(&channel.into(), value.as_ref());
            }
        }),
        BrokerEvent::Invalidate(invalidations) => {
            state.visitors.leases.invalidate(&invalidations);
            for invalidation in &*invalidations {
                if let (Some(groups), Invalidation::Groups { id }) = (&state.groups, invalidation) {
                    groups.joined.changed(id);
                }
            }
        }
        BrokerEvent::Directives(directives) => held.directives.push(directives),
        BrokerEvent::EmitsRefused(channel) => drop(state.emits_refused.replace(channel)),
        BrokerEvent::Query(query) => doctor::answer(state.clone(), query),
        BrokerEvent::Subscription(event) => {
            match event {
                SubscriptionEvent::Up => {
                    state.redis_up.set(true);
                    if state.number == 0 {
                        state.process.presence.rewrite();
                    }
                }
                SubscriptionEvent::Lost => {
                    state.redis_up.set(false);
                    // All channels are subscribed anew.
                    state.emits_refused.take();
                }
                _ => {}
            }
            handle_subscription_event(state, &state.hub, event);
        }
    }
}

/// Handles an event of the broker that serves this hub.
fn handle_subscription_event(state: &Rc<ShardState>, hub: &Rc<SharedHub>, event: SubscriptionEvent) {
    // The keys of yunity-sockets are in the Redis of the messages, those of sessions may be in another.
    let session_keys = state.named_sessions.as_ref().filter(|_| Rc::ptr_eq(hub, &state.hub));
    let leases = &state.visitors.leases;
    match event {
        SubscriptionEvent::Subscribed(channels) => hub.with(|hub| {
            for (channel, generation) in channels {
                hub.on_subscribed(&channel.into(), generation);
            }
        }),
        SubscriptionEvent::Refused(channel, generation) => {
            hub.with(|hub| hub.on_refused(&channel.into(), generation));
        }
        SubscriptionEvent::Resumed(channels) => hub.with(|hub| {
            for channel in channels {
                hub.recover(&channel.into(), None);
            }
        }),
        SubscriptionEvent::Lost => hub.with(Hub::on_lost),
        SubscriptionEvent::KeyspaceEvents { published, writes } => {
            if let Some(keys) = session_keys {
                keys.has_events.set(writes);
                keys.missed.notify_one();
            }
            if Rc::ptr_eq(hub, &state.session_hub) {
                leases.set_events(published);
            }
        }
        SubscriptionEvent::KeyEvents(events) => {
            for (channel, event) in events {
                if session_keys.is_some() {
                    socket_io::session_key_changed(state, &channel, event);
                }
                leases.key_changed(&channel, event);
            }
        }
        SubscriptionEvent::Up | SubscriptionEvent::EventsMissed => {
            if let Some(keys) = session_keys {
                keys.missed.notify_one();
            }
            leases.revalidate_all();
            if let Some(groups) = state.groups.as_ref().filter(|_| Rc::ptr_eq(hub, &state.hub)) {
                groups.joined.missed();
            }
        }
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
