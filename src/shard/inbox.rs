//! What the broker tells a shard, and what a shard tells the broker.

use std::rc::Rc;

use tokio::sync::mpsc;

use super::Shard;
use crate::hub::{Desk, Hub, Run};
use crate::redis::{Call, Inbox};
use crate::wire::Channel;

/// What the broker may have told and the shard not yet taken: batches of up to a mebibyte.
pub const INBOX: usize = 64;

/// Batches that a shard takes together, and joins.
const JOINED: usize = INBOX;

/// A shard's line to a broker.
#[derive(Debug)]
pub struct Line {
    /// What the broker tells.
    pub inbox: mpsc::Receiver<Inbox>,
    /// What it is told.
    pub calls: mpsc::Sender<Call>,
}

impl Shard {
    /// Delivers what the broker sends. All that is there is taken together, and runs of a channel are joined.
    pub(super) async fn deliver(self: Rc<Self>, mut inbox: mpsc::Receiver<Inbox>) {
        let mut waiting = Vec::with_capacity(JOINED);
        while inbox.recv_many(&mut waiting, JOINED).await > 0 {
            let mut batches = Vec::new();
            for item in waiting.drain(..) {
                match item {
                    Inbox::Deliver(runs) => batches.push(runs),
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
        self.desk.with(|hub| runs.into_iter().for_each(|(channel, run)| hub.deliver(&channel, run)));
    }

    /// Takes what the broker tells besides messages.
    fn note(self: &Rc<Self>, item: Inbox) {
        match &item {
            Inbox::Up => self.redis_up.set(true),
            Inbox::Lost => self.redis_up.set(false),
            _ => {}
        }
        match item {
            Inbox::Hints(hints) => self.leases.hint(&hints),
            Inbox::Asked(question) => self.clone().answer(question),
            item => self.note_for(&self.desk, item),
        }
    }

    /// Takes what a broker tells to those who want something of it.
    fn note_for(&self, desk: &Rc<Desk>, item: Inbox) {
        match item {
            Inbox::Subscribed(channels) => desk.with(|hub| {
                for (channel, ticket) in channels {
                    hub.subscribed(&channel, ticket);
                }
            }),
            Inbox::Regained(channel) => desk.with(|hub| hub.regained(&channel)),
            Inbox::Refused(channel, ticket) => desk.with(|hub| hub.refused(&channel, ticket)),
            Inbox::Up | Inbox::Overlooked => self.leases.look_at_all(),
            Inbox::Lost => desk.with(Hub::lost),
            Inbox::Pause => desk.with(Hub::pause),
            Inbox::Recovered(values) => desk.with(|hub| {
                for (channel, value) in values {
                    hub.recover(&channel, value.as_ref());
                }
            }),
            Inbox::Events(events) if Rc::ptr_eq(&self.watches, desk) => self.leases.set_events(events),
            Inbox::Touched(channels) => {
                for (channel, touch) in channels {
                    self.leases.touched(&channel, touch);
                }
            }
            // Taken elsewhere, or of no meaning: what is told of a Redis where no session lies.
            Inbox::Events(_) | Inbox::Deliver(_) | Inbox::Hints(_) | Inbox::Asked(_) => {}
        }
    }

    /// Takes what the broker of a Redis tells in which there is nothing but sessions.
    pub(super) async fn watch(self: Rc<Self>, mut inbox: mpsc::Receiver<Inbox>) {
        while let Some(item) = inbox.recv().await {
            self.note_for(&self.watches, item);
        }
    }

    /// Tells a broker which channels are wanted.
    pub(super) async fn call(self: Rc<Self>, desk: Rc<Desk>, calls: mpsc::Sender<Call>) {
        loop {
            let orders = desk.orders().await;
            if calls.send((self.number, orders)).await.is_err() {
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
