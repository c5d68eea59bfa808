//! Sources: each decodes the messages of its channels into [`Instruction`]s.
//!
//! The broker stores a channel's source with its subscription, so that no message's channel name is parsed, and carries
//! the instructions out.

mod control;
mod emitter;
mod emitter_values;
mod event_value;
mod groups;
mod json_text;
mod keyspace;
mod notifications;
mod pickled_emit;
mod redis_manager;
mod relay;

use self::emitter::EmitterReader;
pub use self::emitter::escape_pattern;
pub use self::groups::{GroupMessage, GroupReader, UndeliveredGroupMessage};
pub use self::notifications::BridgeOrders;
use self::notifications::NotificationReader;
use self::redis_manager::RedisManagerReader;
use crate::settings::{Settings, SocketIoSettings};
use crate::wire::socket_io::{EventData, MessageLimits};
use crate::wire::{
    Channel, Directive, DoctorQuery, EmitTarget, Invalidation, KeyEvent, Message, NodeId, key_of,
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
    /// A pattern for the events of Node's emitters, and of servers with the Redis adapter.
    Emitter,
    /// A pattern for what these ask for otherwise: changes of rooms, and disconnects.
    EmitterRequest,
    /// A channel of the bridges for yunity-sockets and the messenger.
    Notifications,
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
    /// Do anything else about clients of Socket.IO, in order with the events. Boxed likewise.
    Direct(Box<Directive>),
    /// Do what a message of the bridges asks for. Boxed likewise.
    Bridge(Box<BridgeOrders>),
    /// Do nothing: the message is well-formed and for another server.
    Ignore,
}

/// Reads messages: the state that the meaning of some of them depends on.
#[derive(Debug)]
pub struct SourceReader {
    redis_manager: RedisManagerReader,
    emitter: EmitterReader,
    notifications: NotificationReader,
}

/// Returns the channels and patterns that the broker wants for itself, with their sources.
pub fn own_channels(settings: &Settings) -> Vec<(Channel, Source)> {
    let mut channels = vec![(settings.namespace.control(), Source::Control)];
    let SocketIoSettings { namespaces, redis_manager, emitter, .. } = &settings.socket_io;
    if !settings.socket_io.mounts_with(|mount| mount.redis_manager).is_empty() {
        let named = redis_manager.channels.iter().map(|name| Channel::from_redis(name));
        channels.extend(named.map(|channel| (channel, Source::RedisManager)));
    }
    if emitter.is_enabled && !settings.socket_io.mounts_with(|mount| mount.is_main).is_empty() {
        channels.extend(emitter::patterns(&emitter.key, namespaces));
    }
    let SocketIoSettings { yunity, messenger, .. } = &settings.socket_io;
    if !settings.socket_io.mounts_with(|mount| mount.yunity).is_empty() {
        channels.push((Channel::from_redis(&yunity.channel), Source::Notifications));
    }
    if !settings.socket_io.mounts_with(|mount| mount.messenger).is_empty() {
        let channel = (Channel::from_redis(&messenger.channel), Source::Notifications);
        // By default both bridges read the same channel.
        if !channels.contains(&channel) {
            channels.push(channel);
        }
    }
    channels
}

impl Source {
    /// Returns whether the broker itself wants the channels of this source, whatever the shards want.
    pub fn is_own(self) -> bool {
        self == Self::Control || self.is_socket_io()
    }

    /// Returns its name.
    pub fn word(self) -> &'static str {
        match self {
            Self::Relay => "relay",
            Self::Keyspace => "keyspace",
            Self::Control => "control",
            Self::RedisManager => "redis_manager",
            Self::Emitter | Self::EmitterRequest => "emitter",
            Self::Notifications => "notifications",
        }
    }

    /// Returns whether its messages are for clients of Socket.IO.
    pub fn is_socket_io(self) -> bool {
        matches!(self, Self::RedisManager | Self::Emitter | Self::EmitterRequest | Self::Notifications)
    }

    /// Returns whether it has patterns in place of channels.
    pub fn is_pattern(self) -> bool {
        matches!(self, Self::Emitter | Self::EmitterRequest)
    }

    /// Returns the source of a channel that a shard subscribes to. Shards never subscribe to the broker's own channels.
    pub fn of(channel: &Channel) -> Self {
        if key_of(channel).is_some() { Self::Keyspace } else { Self::Relay }
    }
}

impl SourceReader {
    /// Creates the reader of a process. Without its id, it reads the answers to the clients of all processes.
    pub fn new(settings: &Settings, node: Option<NodeId>) -> Self {
        let bytes = settings.messages.max_delivery_bytes;
        let limits = MessageLimits {
            // Compact JSON may be longer than what a publisher wrote, where NaN becomes null.
            text_bytes: bytes.saturating_mul(2),
            attachments: settings.socket_io.max_attachments,
            attachment_bytes: bytes,
            total_bytes: bytes.saturating_mul(2),
        };
        Self {
            redis_manager: RedisManagerReader::new(&settings.socket_io.redis_manager, limits, node),
            emitter: EmitterReader::new(&settings.socket_io, limits),
            notifications: NotificationReader::new(&settings.socket_io, limits),
        }
    }

    /// Returns what a message of a source asks for; `None` if it is malformed, or empty. Events for clients that
    /// `is_wanted` denies are ignored, most of them before they are decoded.
    pub fn read(
        &mut self,
        source: Source,
        message: Message,
        is_wanted: impl Fn(&EmitTarget) -> bool,
    ) -> Option<Instruction> {
        match source {
            Source::Relay => relay::read(message),
            Source::Keyspace => Some(keyspace::read(&message)),
            Source::Control => control::read(&message),
            Source::RedisManager => self.redis_manager.read(&message, is_wanted),
            Source::Emitter => self.emitter.read_event(&message, is_wanted),
            Source::EmitterRequest => self.emitter.read_request(&message),
            Source::Notifications => self.notifications.read(&message),
        }
    }
}
