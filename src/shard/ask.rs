//! What the admin listener asks a shard, and the answers. Both run on threads of their own and share no connection.

use std::cell::{Cell, RefCell};
use std::net::SocketAddr;
use std::sync::Arc;

use tokio::sync::{Notify, oneshot};

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
        /// Where the answer goes.
        answer: oneshot::Sender<Snapshot>,
    },
    /// The clients of yunity-sockets, from a position on.
    YunityClients {
        /// The first position.
        from: usize,
        /// Most clients of the answer, which may have fewer.
        limit: usize,
        /// Where the answer goes.
        answer: oneshot::Sender<YunityClients>,
    },
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

/// What is public about an open connection. It has neither cookies nor session keys.
#[derive(Debug, Clone)]
pub struct ConnectionInfo {
    /// Its public id; none for a session of Socket.IO before it has joined a namespace.
    pub id: Option<String>,
    /// The protocol that its client speaks.
    pub dialect: &'static str,
    /// What carries its messages: `websocket`, `event-stream` or `polling`.
    pub form: &'static str,
    /// Its facility; none for dialects in which it may have several.
    pub facility: Option<String>,
    /// The facilities of a socket that may have several; none for other dialects.
    pub facilities: Option<Vec<String>>,
    /// The namespaces that it has joined; none for the relay, which has no namespaces.
    pub namespaces: Option<Vec<NamespaceInfo>>,
    /// Its user's name, or primary key if the name is not known; none for an anonymous visitor.
    pub user: Option<Arc<str>>,
    /// The other end of its socket.
    pub peer: ConnectionPeer,
    /// Seconds since it was accepted.
    pub age_seconds: u64,
    /// Messages that were delivered.
    pub delivered: u64,
    /// Messages that were dropped because the client read too slowly.
    pub dropped: u64,
    /// Bytes that its socket has not accepted yet.
    pub waiting_bytes: usize,
}

/// A client of Socket.IO in a namespace.
#[derive(Debug, Clone)]
pub struct NamespaceInfo {
    /// The namespace.
    pub name: String,
    /// The client's public id there; none if it is the secret id of the session, too.
    pub sid: Option<String>,
    /// Its user's name there, or primary key if the name is not known; none for an anonymous visitor.
    pub user: Option<Arc<str>>,
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

/// The other end of a connection.
#[derive(Debug, Clone, Copy)]
pub enum ConnectionPeer {
    /// A TCP socket.
    Address(SocketAddr),
    /// A unix socket.
    Unix,
    /// No socket at the moment: the client polls.
    None,
}

/// Collects what connections tell about themselves.
///
/// Only a connection's own task knows its facility and its user: a second copy for a listing that nobody may ever request
/// would cost memory for each connection.
#[derive(Default)]
pub struct Descriptions {
    missing: Cell<usize>,
    collected: RefCell<Vec<ConnectionInfo>>,
    complete: Notify,
}

impl Descriptions {
    /// Expects this many connections to describe themselves.
    pub fn expect(&self, count: usize) {
        self.missing.set(count);
    }

    /// Adds the description of a connection.
    pub fn add(&self, info: ConnectionInfo) {
        self.collected.borrow_mut().push(info);
        self.missing.set(self.missing.get().saturating_sub(1));
        if self.missing.get() == 0 {
            self.complete.notify_one();
        }
    }

    /// Waits until all expected connections have described themselves. Cancel-safe.
    pub async fn complete(&self) {
        while self.missing.get() > 0 {
            self.complete.notified().await;
        }
    }

    /// Takes the descriptions.
    pub fn take(&self) -> Vec<ConnectionInfo> {
        self.collected.take()
    }
}
