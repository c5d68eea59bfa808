//! What shards and brokers tell each other.

use std::sync::Arc;

use bytes::Bytes;

use crate::hub::{Generation, Run, SubscriptionRequest};
use crate::wire::{Channel, DoctorQuery, Hint, KeyEvent};

/// What a shard tells the broker: its number and its requests.
pub type Call = (usize, Vec<SubscriptionRequest>);

/// What the broker tells a shard. The order counts.
#[derive(Debug)]
pub enum BrokerEvent {
    /// Messages, a run per channel.
    Deliver(Vec<(Channel, Run)>),
    /// Redis has acknowledged channels.
    Subscribed(Vec<(Channel, Generation)>),
    /// Redis sends a channel that it refused: what is published from now on waits for its persisted value.
    Regained(Channel),
    /// Redis refuses a channel. It is tried again for those who listen already.
    Refused(Channel, Generation),
    /// Redis can be reached, and sends all channels that are wanted.
    Up,
    /// Redis was lost.
    Lost,
    /// Messages were lost: hold all channels back until their values have been read again.
    Pause,
    /// Persisted values that were read again.
    Recovered(Vec<(Channel, Option<Bytes>)>),
    /// Whether Redis tells what happens to keys.
    Events(bool),
    /// Keys to which something happened, by the channels that tell of them.
    KeyEvents(Vec<(Channel, KeyEvent)>),
    /// Something may have happened to any key.
    Overlooked,
    /// Users at whose sessions one has to look again.
    Hints(Arc<[Hint]>),
    /// A query of the doctor's; one shard answers.
    Asked(DoctorQuery),
}

/// What a broker is for.
pub enum Role {
    /// Messages, and hints on this channel.
    Messages(Channel),
    /// What happens to sessions that lie in a Redis of their own.
    Sessions,
}
