//! What the admin listener asks a shard, and the answers. Both run on threads of their own and share no connection.

mod connection_info;
mod descriptions;
mod filter;
mod name_selection;

use std::sync::Arc;

use tokio::sync::oneshot;

pub use self::connection_info::{ConnectionInfo, ConnectionPeer, NamespaceInfo};
pub use self::descriptions::Descriptions;
pub use self::filter::ConnectionFilter;
pub use self::name_selection::{NameQuery, NameSelection};
use crate::metrics::ShardSample;
use crate::wire::{Channel, EmitTarget, HandshakeRecord};

/// A question of the admin listener to a shard.
#[derive(Debug)]
pub enum Ask {
    /// Whether the shard's tasks run, and whether it serves handshakes.
    Status(oneshot::Sender<ShardStatus>),
    /// Some open connections, from a position on.
    Snapshot {
        /// The first position.
        from: usize,
        /// Most connections of the answer, which may have fewer.
        limit: usize,
        /// Which connections are meant.
        filter: Arc<ConnectionFilter>,
        /// Where the answer goes.
        answer: oneshot::Sender<Snapshot>,
    },
    /// Closes connections, from a position on.
    Close {
        /// The first position.
        from: usize,
        /// Which connections, and how.
        request: Arc<CloseRequest>,
        /// Where the answer goes.
        answer: oneshot::Sender<ClosedConnections>,
    },
    /// Redis channels, with the number of their listeners.
    Channels(NameQuery, oneshot::Sender<Vec<(String, usize)>>),
    /// Groups of Django Channels, with the number of their listeners.
    Groups(NameQuery, oneshot::Sender<Vec<(String, usize)>>),
    /// Users, with the number of their connections.
    Users(NameQuery, oneshot::Sender<Vec<(String, usize)>>),
    /// The clients of yunity-sockets, from a position on.
    YunityClients {
        /// The first position.
        from: usize,
        /// Most clients of the answer, which may have fewer.
        limit: usize,
        /// Where the answer goes.
        answer: oneshot::Sender<YunityClients>,
    },
    /// What it has counted.
    Metrics(oneshot::Sender<ShardSample>),
    /// The number of clients that a message reaches; `None` if a path is not served.
    Receivers(ReceiverQuery, oneshot::Sender<Option<usize>>),
}

/// Clients whose number is asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ReceiverQuery {
    /// Those that listen to a channel of the relay.
    Channel(Channel),
    /// Clients of Socket.IO at some paths.
    Clients(Vec<Box<str>>, EmitTarget),
}

/// Whether a shard serves handshakes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ShardStatus {
    /// It does.
    Ready,
    /// It closes its connections, because the server stops.
    Draining,
    /// It has no Redis for messages.
    NoRedis,
    /// It has no Redis for sessions, which has an address of its own.
    NoSessionRedis,
    /// Redis refuses a channel, without which clients of Socket.IO are not served.
    RefusedChannel(Channel),
}

/// Open connections of a shard.
#[derive(Debug, Default)]
pub struct Snapshot {
    /// The connections.
    pub connections: Vec<ConnectionInfo>,
    /// The position of the next one; none at the end.
    pub next: Option<usize>,
}

/// Which connections the operator closes, and how.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CloseRequest {
    /// Which connections.
    pub filter: Arc<ConnectionFilter>,
    /// The close code.
    pub code: u16,
    /// The reason of the close frame.
    pub reason: Box<str>,
}

/// How many connections of a shard were closed.
#[derive(Debug)]
pub struct ClosedConnections {
    /// Their number.
    pub closed: usize,
    /// The position of the next connection to consider; none at the end.
    pub next: Option<usize>,
}

/// Clients of yunity-sockets on a shard.
#[derive(Debug)]
pub struct YunityClients {
    /// The clients.
    pub clients: Vec<YunityClient>,
    /// The position of the next one; none at the end.
    pub next: Option<usize>,
}

/// A client of yunity-sockets, without its secrets.
#[derive(Debug)]
pub struct YunityClient {
    /// Its public id; none if it is the secret id of the session, too.
    pub id: Option<String>,
    /// Whether it has named a session that has not ended.
    pub has_session: bool,
    /// The user of that session, if it is known.
    pub user: Option<Arc<str>>,
    /// Its handshake, if it is kept.
    pub handshake: Option<HandshakeRecord>,
}
