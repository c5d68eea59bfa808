//! The state of one connected client.

use std::{collections::BTreeSet, net::SocketAddr};

use bytes::Bytes;

use super::{output_buffer::OutputBuffer, reply::Protocol};

/// Commands between MULTI and EXEC.
#[derive(Default)]
pub(crate) struct Transaction {
    /// The words of each command. EXEC looks the command up again, so that this file need not know the table.
    pub(crate) queue: Vec<Vec<Bytes>>,
    /// A command was refused while queueing, so EXEC discards all of them.
    pub(crate) must_abort: bool,
    /// Memory that is counted for the queue.
    pub(crate) reserved_bytes: usize,
}

/// One client.
pub(crate) struct Client {
    pub(crate) id: u64,
    pub(crate) peer: SocketAddr,
    pub(crate) local: SocketAddr,
    /// Uptime of the store in seconds when the client connected.
    pub(crate) connected_at: u64,
    pub(crate) name: Bytes,
    pub(crate) db: usize,
    pub(crate) protocol: Protocol,
    pub(crate) last_command: &'static str,
    pub(crate) channels: BTreeSet<Bytes>,
    pub(crate) patterns: BTreeSet<Bytes>,
    pub(crate) transaction: Option<Transaction>,
    pub(crate) watched: Vec<(usize, Bytes)>,
    /// A watched key has changed, so EXEC runs nothing.
    pub(crate) watched_key_changed: bool,
    pub(crate) output: OutputBuffer,
    /// Bytes of an incomplete request.
    pub(crate) unread_bytes: usize,
    /// The connection closes when its output is written.
    pub(crate) closing: bool,
    /// The connection closes at once and its output is discarded.
    pub(crate) disconnected: bool,
}

impl Client {
    /// Creates a client that has just connected.
    pub(crate) fn new(id: u64, peer: SocketAddr, local: SocketAddr, connected_at: u64) -> Self {
        Self {
            id,
            peer,
            local,
            connected_at,
            name: Bytes::new(),
            db: 0,
            protocol: Protocol::Resp2,
            last_command: "NULL",
            channels: BTreeSet::new(),
            patterns: BTreeSet::new(),
            transaction: None,
            watched: Vec::new(),
            watched_key_changed: false,
            output: OutputBuffer::default(),
            unread_bytes: 0,
            closing: false,
            disconnected: false,
        }
    }

    /// Returns the number of subscribed channels and patterns.
    pub(crate) fn subscriptions(&self) -> usize {
        self.channels.len() + self.patterns.len()
    }

    /// Returns whether only the commands of a subscriber are allowed: RESP2 cannot tell a message from a reply.
    pub(crate) fn in_subscriber_mode(&self) -> bool {
        self.protocol == Protocol::Resp2 && self.subscriptions() > 0
    }
}
