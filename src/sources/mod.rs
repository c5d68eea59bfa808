//! Sources: each decodes the messages of its channels into [`Instruction`]s.
//!
//! The broker stores a channel's source with its subscription, so that no message's channel name is parsed, and carries
//! the instructions out.

mod control;
mod keyspace;
mod relay;

use crate::wire::{Channel, DoctorQuery, Invalidation, KeyEvent, Message, key_of};

/// The kind of a channel, decided when it is subscribed.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub enum Source {
    /// A channel of django-websocket-redis: its messages go to its listeners as they are.
    #[default]
    Relay,
    /// Keyspace notifications of one key.
    Keyspace,
    /// The channel on which the Django package reports changes.
    Control,
}

/// What a message asks for.
#[derive(Debug, PartialEq, Eq)]
pub enum Instruction {
    /// Deliver the payload to the listeners of the message's channel. It holds the message as received: nothing is
    /// copied or allocated on this path.
    Deliver(Message),
    /// Re-read the session whose key the message's channel reports.
    KeyChanged(KeyEvent),
    /// Re-read the sessions that this describes.
    Invalidate(Invalidation),
    /// Answer `manage.py ws4redis_doctor`.
    Query(DoctorQuery),
}

impl Source {
    /// Returns the source of a channel that a shard subscribes to. Shards never subscribe to the control channel.
    pub fn of(channel: &Channel) -> Self {
        if key_of(channel).is_some() { Self::Keyspace } else { Self::Relay }
    }

    /// Returns what a message of this source asks for; `None` if it is to be ignored.
    pub fn read(self, message: Message) -> Option<Instruction> {
        match self {
            Self::Relay => relay::read(message),
            Self::Keyspace => Some(keyspace::read(&message)),
            Self::Control => control::read(&message),
        }
    }
}
