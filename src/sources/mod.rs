//! Sources: each decodes the messages of its channels into [`Instruction`]s.
//!
//! The broker stores a channel's source with its subscription, so that no message's channel name is parsed, and carries
//! the instructions out.

mod control;
mod keyspace;
mod pickled_emit;
mod redis_manager;
mod relay;

pub use redis_manager::RedisManagerReader;

use crate::wire::socket_io::EventData;
use crate::wire::{
    AskedEvent, Channel, ClientName, DoctorQuery, EmitTarget, Invalidation, KeyEvent, Message, key_of,
};

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
    /// A channel of python-socketio's `RedisManager`.
    RedisManager,
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
    /// Send an event to clients. Boxed: other instructions are smaller.
    Emit(Box<(EmitTarget, EventData)>),
    /// Send an event that clients acknowledge.
    Ask(Box<(EmitTarget, AskedEvent)>),
    /// Disconnect a client from a namespace.
    DisconnectClient(ClientName),
    /// Put a client into a room.
    EnterRoom(ClientName, Box<str>),
    /// Take a client out of a room.
    LeaveRoom(ClientName, Box<str>),
    /// Empty a room of a namespace.
    CloseRoom(Box<str>, Box<str>),
    /// Do nothing: the message is well-formed and for another server.
    Ignore,
}

/// Reads messages: the state that the meaning of some of them depends on.
#[derive(Debug)]
pub struct SourceReader {
    redis_manager: RedisManagerReader,
}

impl Source {
    /// Returns whether the broker itself wants the channels of this source, whatever the shards want.
    pub fn is_own(self) -> bool {
        matches!(self, Self::Control | Self::RedisManager)
    }

    /// Returns the source of a channel that a shard subscribes to. Shards never subscribe to the broker's own channels.
    pub fn of(channel: &Channel) -> Self {
        if key_of(channel).is_some() { Self::Keyspace } else { Self::Relay }
    }
}

impl SourceReader {
    /// Creates a reader.
    pub fn new(redis_manager: RedisManagerReader) -> Self {
        Self { redis_manager }
    }

    /// Returns what a message of a source asks for; `None` if it is malformed, or empty.
    pub fn read(&mut self, source: Source, message: Message) -> Option<Instruction> {
        match source {
            Source::Relay => relay::read(message),
            Source::Keyspace => Some(keyspace::read(&message)),
            Source::Control => control::read(&message),
            Source::RedisManager => self.redis_manager.read(&message),
        }
    }
}
