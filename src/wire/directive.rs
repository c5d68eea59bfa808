//! What Django asks for about connected clients: events to send, and changes of their rooms.

use std::sync::Arc;

use bytes::Bytes;

use super::Channel;
use super::socket_io::EventData;

/// Longest name of a room, and longest public id.
pub const MAX_ROOM_BYTES: usize = 256;

/// Something that Django asks for about the clients of a namespace. Directives of one Redis channel apply in their order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Directive {
    /// Send messages: encoded packets, and their number.
    Emit(EmitTarget, Bytes, u32),
    /// Send an event that each client acknowledges.
    Ask(EmitTarget, Arc<AskedEvent>),
    /// Acknowledge an event of a client.
    Answer(ClientName, Arc<ClientAnswer>),
    /// Disconnect the client with this public id from the namespace.
    Disconnect(ClientName),
    /// Put a client into a room.
    EnterRoom(ClientName, Box<str>),
    /// Take a client out of a room.
    LeaveRoom(ClientName, Box<str>),
    /// Empty a room of a namespace.
    CloseRoom(Box<str>, Box<str>),
    /// Send a message to users of yunity-sockets, in order and to each as often as it is named.
    Notify(Box<[Box<str>]>, Bytes),
    /// Start the list of the messenger's connections anew.
    BeginGathering,
    /// Put all these clients into rooms.
    EnterRooms(EmitTarget, Box<[Box<str>]>),
    /// Take all these clients out of rooms.
    LeaveRooms(EmitTarget, Box<[Box<str>]>),
    /// Disconnect all these clients: from the namespace only, or from all that they are in.
    DisconnectAll(EmitTarget, DisconnectScope),
}

/// The namespaces from which a client is disconnected.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DisconnectScope {
    /// The namespace of the id that it was addressed with.
    Namespace,
    /// All of its session.
    Session,
}

/// An event that is acknowledged, and where the acknowledgements go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AskedEvent {
    /// The event.
    pub event: EventData,
    /// Its publisher.
    pub origin: Arc<AckOrigin>,
}

/// How a publisher of python-socketio wants to be answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AckOrigin {
    /// The channel of the event, which is that of the answer.
    pub channel: Channel,
    /// The publisher.
    pub host_id: Box<str>,
    /// The first item of `callback`: the room of the event.
    pub sid: Box<str>,
    /// The second item.
    pub namespace: Box<str>,
    /// The third item: the number of the question.
    pub id: u64,
    /// Whether the question was in pickle, and the answer has to be.
    pub is_pickled: bool,
}

/// Django's acknowledgement of a client's event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClientAnswer {
    /// The ack id of the event.
    pub id: u64,
    /// The arguments.
    pub arguments: EventData,
}

/// The clients that a message is for.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct EmitTarget {
    /// The namespace.
    pub namespace: Box<str>,
    /// Rooms and public ids, each client once; `None` for the whole namespace.
    pub rooms: Option<Vec<Box<str>>>,
    /// Public ids of clients that do not get it.
    pub except: Vec<Box<str>>,
    /// `except` names rooms as well: emitters of Node mean them, python-socketio does not.
    pub excepts_rooms: bool,
    /// Clients that have not accepted earlier messages yet do not get it.
    pub is_volatile: bool,
}

/// A client in a namespace, by its public id.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClientName {
    /// The namespace.
    pub namespace: Box<str>,
    /// The id.
    pub sid: Box<str>,
}
