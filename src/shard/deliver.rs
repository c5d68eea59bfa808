//! What the broker tells a shard, and what a shard tells the broker.

use std::rc::Rc;

use tokio::sync::mpsc;

use super::Shard;
use crate::broker::{BrokerEvent, Call};
use crate::hub::{Hub, Run, SharedHub};
use crate::wire::Channel;

/// What the broker may have told and the shard not yet taken: batches of up to a mebibyte.
pub const INBOX: usize = 64;

/// Batches that a shard takes together, and joins.
const JOINED: usize = INBOX;

/// A shard's line to a broker.
#[derive(Debug)]
pub struct BrokerLink {
    /// What the broker tells.
    pub inbox: mpsc::Receiver<BrokerEvent>,
    /// What it is told.
    pub calls: mpsc::Sender<Call>,
}

impl Shard {
    /// Delivers what the broker sends. All that is there is taken together, and runs of a channel are joined.
    pub(super) async fn deliver(self: Rc<Self>, mut inbox: mpsc::Receiver<BrokerEvent>) {
        let mut waiting = Vec::with_capacity(JOINED);
        while inbox.recv_many(&mut waiting, JOINED).await > 0 {
            let mut batches = Vec::new();
            for item in waiting.drain(..) {
                match item {
                    BrokerEvent::Deliver(runs) => batches.push(runs),
                    item => {
                        self.deliver_joined(&mut batches);
                        self.note(item);
                    }
                }
            }
            self.deliver_joined(&mut batches);
        }
    }

    fn deliver_joined(&self, batches: &mut Vec<Vec<(Channel, Run)>>) {
        let runs =
            if batches.len() > 1 { join(batches.drain(..)) } else { batches.pop().unwrap_or_default() };
        self.hub.with(|hub| runs.into_iter().for_each(|(channel, run)| hub.deliver(&channel.into(), run)));
    }

    /// Takes what the broker tells besides messages.
    fn note(self: &Rc<Self>, item: BrokerEvent) {
        match &item {
            BrokerEvent::Up => self.redis_up.set(true),
            BrokerEvent::Lost => self.redis_up.set(false),
            _ => {}
        }
        match item {
            BrokerEvent::Hints(hints) => self.visitors.leases().hint(&hints),
            BrokerEvent::Asked(query) => self.clone().answer(query),
            item => self.note_for(&self.hub, item),
        }
    }

    /// Takes what a broker tells to those who want something of it.
    fn note_for(&self, hub: &Rc<SharedHub>, item: BrokerEvent) {
        match item {
            BrokerEvent::Subscribed(channels) => hub.with(|hub| {
                for (channel, generation) in channels {
                    hub.subscribed(&channel.into(), generation);
                }
            }),
            BrokerEvent::Regained(channel) => hub.with(|hub| hub.regained(&channel.into())),
            BrokerEvent::Refused(channel, generation) => {
                hub.with(|hub| hub.refused(&channel.into(), generation));
            }
            BrokerEvent::Up | BrokerEvent::Overlooked => self.visitors.leases().revalidate_all(),
            BrokerEvent::Lost => hub.with(Hub::lost),
            BrokerEvent::Pause => hub.with(Hub::pause),
            BrokerEvent::Recovered(values) => hub.with(|hub| {
                for (channel, value) in values {
                    hub.recover(&channel.into(), value.as_ref());
                }
            }),
            BrokerEvent::Events(events) if Rc::ptr_eq(&self.watches, hub) => {
                self.visitors.leases().set_events(events);
            }
            BrokerEvent::KeyEvents(channels) => {
                for (channel, key_event) in channels {
                    self.visitors.leases().key_changed(&channel, key_event);
                }
            }
            // Taken elsewhere, or of no meaning: what is told of a Redis where no session lies.
            BrokerEvent::Events(_)
            | BrokerEvent::Deliver(_)
            | BrokerEvent::Hints(_)
            | BrokerEvent::Asked(_) => {}
        }
    }

    /// Takes what the broker of a Redis tells in which there is nothing but sessions.
    pub(super) async fn watch(self: Rc<Self>, mut inbox: mpsc::Receiver<BrokerEvent>) {
        while let Some(item) = inbox.recv().await {
            self.note_for(&self.watches, item);
        }
    }

    /// Tells a broker which channels are wanted.
    pub(super) async fn call(self: Rc<Self>, hub: Rc<SharedHub>, calls: mpsc::Sender<Call>) {
        loop {
            let requests = hub.requests().await;
            if calls.send((self.number, requests)).await.is_err() {
                return;
            }
        }
    }
}

/// Joins the runs of each channel, in order.
fn join(batches: impl Iterator<Item = Vec<(Channel, Run)>>) -> Vec<(Channel, Run)> {
    let mut places = std::collections::HashMap::<Channel, usize, foldhash::fast::RandomState>::default();
    let mut joined: Vec<(Channel, Vec<Run>)> = Vec::new();
    for (channel, run) in batches.flatten() {
        let place = *places.entry(channel.clone()).or_insert(joined.len());
        if place == joined.len() {
            joined.push((channel, Vec::new()));
        }
        joined[place].1.push(run);
    }
    joined.into_iter().filter_map(|(channel, runs)| Some((channel, Run::join(runs)?))).collect()
}
