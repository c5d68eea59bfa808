//! What the store knows about one connected client.

use std::{collections::BTreeSet, net::SocketAddr};

use bytes::Bytes;

use super::{output_buffer::OutputBuffer, reply::Protocol};

/// Commands between MULTI and EXEC.
#[derive(Default)]
pub(crate) struct Transaction {
    pub(crate) queue: Vec<Vec<Bytes>>,
    /// A command was refused, so EXEC will refuse all.
    pub(crate) broken: bool,
    pub(crate) held_bytes: usize,
}

/// One client.
pub(crate) struct Client {
    pub(crate) id: u64,
    pub(crate) peer: SocketAddr,
    pub(crate) local: SocketAddr,
    /// Uptime of the store in seconds when the client came.
    pub(crate) since: u64,
    pub(crate) name: Bytes,
    pub(crate) db: usize,
    pub(crate) protocol: Protocol,
    pub(crate) last_command: &'static str,
    pub(crate) channels: BTreeSet<Bytes>,
    pub(crate) patterns: BTreeSet<Bytes>,
    pub(crate) transaction: Option<Transaction>,
    pub(crate) watched: Vec<(usize, Bytes)>,
    /// A watched key has changed.
    pub(crate) watch_broken: bool,
    pub(crate) output: OutputBuffer,
    /// Bytes of a request that has not arrived whole.
    pub(crate) unread_bytes: usize,
    /// The connection ends when the output is empty.
    pub(crate) closing: bool,
    /// The connection ends at once.
    pub(crate) cut: bool,
}

impl Client {
    /// Creates a client that has just connected.
    pub(crate) fn new(id: u64, peer: SocketAddr, local: SocketAddr, since: u64) -> Self {
        Self {
            id,
            peer,
            local,
            since,
            name: Bytes::new(),
            db: 0,
            protocol: Protocol::Resp2,
            last_command: "NULL",
            channels: BTreeSet::new(),
            patterns: BTreeSet::new(),
            transaction: None,
            watched: Vec::new(),
            watch_broken: false,
            output: OutputBuffer::default(),
            unread_bytes: 0,
            closing: false,
            cut: false,
        }
    }

    /// Returns how many channels and patterns the client listens to.
    pub(crate) fn subscriptions(&self) -> usize {
        self.channels.len() + self.patterns.len()
    }

    /// Tells whether only the commands of a subscriber are allowed, as in RESP2, where replies and messages look alike.
    pub(crate) fn only_listens(&self) -> bool {
        self.protocol == Protocol::Resp2 && self.subscriptions() > 0
    }
}
