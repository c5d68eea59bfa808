//! The part of a broker that exists only for messages: delivery, recovery, and the control channel.

use std::rc::Rc;
use std::sync::Arc;

use tokio::sync::mpsc;
use tracing::{info, warn};

use super::event::{BrokerEvent, SubscriptionEvent};
use super::intake::Intake;
use super::recovery::Recovery;
use super::router::bits;
use super::shard_queues::ShardQueues;
use crate::metrics::Counters;
use crate::redis::Store;
use crate::sources::Source;
use crate::telemetry::LogThrottle;
use crate::wire::Channel;

/// The part of a broker that carries messages. It exists only where the shards accept their events.
pub(super) struct Messages {
    shards: ShardQueues<BrokerEvent>,
    pub(super) recovery: Recovery,
    counters: Arc<Counters>,
    overflow: LogThrottle,
}

impl Messages {
    pub(super) fn new(
        shards: Vec<mpsc::Sender<BrokerEvent>>,
        store: Rc<Store>,
        counters: &Arc<Counters>,
    ) -> Self {
        Self {
            shards: ShardQueues::new(shards),
            recovery: Recovery::new(store),
            counters: counters.clone(),
            overflow: LogThrottle::default(),
        }
    }

    /// Passes on what arrived on the control channel.
    pub(super) async fn pass_control(&self, intake: &mut Intake) {
        if intake.control.is_empty() {
            return;
        }
        let (invalidations, queries) = intake.control.take();
        if !invalidations.is_empty() {
            self.shards.send_all(|| BrokerEvent::Invalidate(invalidations.clone()), intake).await;
        }
        for query in queries {
            self.shards.send(0, BrokerEvent::Query(query), intake).await;
        }
        if intake.control.take_dropped() {
            self.shards.send_all(|| SubscriptionEvent::EventsMissed, intake).await;
        }
    }

    /// Passes on one batch of messages.
    pub(super) async fn pass_batch(&mut self, intake: &mut Intake) {
        let dropped = intake.messages.take_dropped();
        if dropped > 0 {
            self.on_overflow(dropped, intake).await;
        }
        let arrived = intake.messages.arrived();
        let batch = intake.messages.next_batch(&mut intake.subscriptions, self.shards.len());
        self.shards.send_each(batch, |runs| BrokerEvent::Deliver(runs, arrived), intake).await;
    }

    /// Passes on what Django asks for about the clients of Socket.IO, to the shards that may have some of them.
    pub(super) async fn pass_directives(&self, intake: &mut Intake) {
        let dropped = intake.directives.take_dropped();
        if dropped > 0 {
            if let Some(suppressed) = self.overflow.allow() {
                warn!(
                    count = dropped,
                    suppressed, "receive buffer overflow; events for Socket.IO clients are lost"
                );
            }
            Counters::add(&self.counters.lagged_deliveries, dropped);
        }
        let directives = intake.directives.take();
        for shard in bits(directives.iter().fold(0, |shards, routed| shards | routed.shards)) {
            self.shards.send(shard, BrokerEvent::Directives(directives.clone()), intake).await;
        }
    }

    /// Reports whether Redis refuses a channel whose messages are for clients of Socket.IO.
    pub(super) async fn report_refused_emits(&self, intake: &mut Intake) {
        let refused = intake.subscriptions.refused_emits();
        self.shards.send_all(|| BrokerEvent::EmitsRefused(refused.clone()), intake).await;
    }

    /// Messages were dropped because they arrived faster than the shards took them: the persisted values are re-read.
    async fn on_overflow(&mut self, count: u64, intake: &mut Intake) {
        if let Some(suppressed) = self.overflow.allow() {
            warn!(
                count,
                suppressed, "receive buffer overflow; messages are lost; re-reading persisted messages"
            );
        }
        Counters::add(&self.counters.lagged_deliveries, count);
        if intake.link.is_up() {
            self.recovery.cancel();
            self.shards.send_all(|| BrokerEvent::Pause, intake).await;
            self.recovery.start(intake.subscriptions.confirmed(Source::Relay));
            self.shards.resume_keyspace(intake).await;
            // An invalidation may have arrived before the dropped messages.
            self.shards.send_all(|| SubscriptionEvent::EventsMissed, intake).await;
        }
    }

    /// Sends the values behind the fence that was answered.
    pub(super) async fn send_recovered(&mut self, intake: &mut Intake) {
        let values = self.recovery.take_fenced(self.shards.len());
        self.shards.send_each(values, BrokerEvent::Recovered, intake).await;
    }

    /// Makes the shards hold back channels that Redis refused before, ahead of the event that confirms them.
    pub(super) async fn hold_regained(&self, regained: &[(Channel, Vec<usize>)], intake: &mut Intake) {
        for (channel, shards) in regained {
            for shard in shards {
                self.shards.send(*shard, BrokerEvent::Regained(channel.clone()), intake).await;
            }
        }
    }

    /// Re-reads the values of these channels: their messages were missed while Redis refused them.
    pub(super) fn recover_regained(&self, regained: Vec<(Channel, Vec<usize>)>, intake: &Intake) {
        if regained.is_empty() {
            return;
        }
        info!(channels = regained.len(), "redis allows refused channels again");
        // Before Redis is up, all values are read as soon as it is.
        if intake.link.is_up() {
            self.recovery.start(regained);
        }
    }
}
