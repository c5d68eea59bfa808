//! The messages between shards and brokers.

use std::sync::Arc;

use bytes::Bytes;
use tokio::time::Instant;

use crate::hub::{ExpectedTopic, Generation, Run, SubscriptionRequest};
use crate::wire::{Channel, Directive, DoctorQuery, Invalidation, KeyEvent, MountSet};

/// A shard's requests to a broker, with the shard's number.
pub type Call = (usize, Vec<SubscriptionRequest>);

/// An event of the broker that carries messages. The order of events counts.
#[derive(Debug)]
pub enum BrokerEvent {
    /// Messages, one run per channel, and when they arrived from Redis.
    Deliver(Vec<(Channel, Run)>, Instant),
    /// Redis confirmed a channel that it refused before: hold back its messages until its persisted value is read.
    Regained(Channel),
    /// Messages were lost: hold back all channels until their persisted values are read.
    Pause,
    /// Persisted values that were re-read.
    Recovered(Vec<(Channel, Option<Bytes>)>),
    /// Re-read the sessions that these describe.
    Invalidate(Arc<[Invalidation]>),
    /// A query of the doctor; one shard answers it.
    Query(DoctorQuery),
    /// What Django asks for about the clients of Socket.IO.
    Directives(Arc<[RoutedDirective]>),
    /// Redis refuses this channel, whose messages are for clients of Socket.IO; `None` if it refuses no such channel any more.
    EmitsRefused(Option<Channel>),
    /// An event that both kinds of broker have.
    Subscription(SubscriptionEvent),
}

/// A directive, and the mounts and shards that it is for.
#[derive(Debug)]
pub struct RoutedDirective {
    /// The mounts that it concerns.
    pub mounts: MountSet,
    /// A bit per shard. Other shards skip it.
    pub shards: u64,
    /// The topics that these shards have as soon as they have carried it out.
    #[expect(dead_code, reason = "dropping it has the effect")]
    pub(super) expected: Vec<ExpectedTopic>,
    /// The directive.
    pub directive: Directive,
}

/// An event of either broker. The broker of a Redis that holds only sessions has no others: it cannot carry messages.
#[derive(Debug)]
pub enum SubscriptionEvent {
    /// Redis confirmed channels.
    Subscribed(Vec<(Channel, Generation)>),
    /// Redis refuses a channel; it is retried as long as it is wanted.
    Refused(Channel, Generation),
    /// Channels without messages, confirmed after a loss: there is no value to wait for.
    Resumed(Vec<Channel>),
    /// Redis is reachable, and all wanted channels are confirmed or refused.
    Up,
    /// The connection to Redis was lost.
    Lost,
    /// Whether Redis publishes keyspace events.
    KeyspaceEvents {
        /// Those of keys that are deleted, written with a time to live, or expire.
        published: bool,
        /// Those of all writes.
        writes: bool,
    },
    /// Keys that changed, by their keyspace channels.
    KeyEvents(Vec<(Channel, KeyEvent)>),
    /// Key events or invalidations may have been missed: any session may have changed.
    EventsMissed,
}

impl From<SubscriptionEvent> for BrokerEvent {
    fn from(event: SubscriptionEvent) -> Self {
        Self::Subscription(event)
    }
}
