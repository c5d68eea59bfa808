//! State that the connections of a shard share for reading and writing.

use std::cell::{Cell, RefCell};
use std::sync::Arc;
use std::time::Duration;

use super::Keepalive;
use crate::hub::Limits;
use crate::unfinished::UnfinishedMemory;

/// State that the connections of a shard share for reading and writing.
pub struct SocketContext {
    /// The shard's clock, in seconds.
    pub clock: Cell<u32>,
    /// The buffer for one read of a socket. Nothing awaits between filling and using it.
    pub buffer: RefCell<Box<[u8]>>,
    /// Heartbeats and pings.
    pub keepalive: Keepalive,
    /// Limits of the outboxes.
    pub limits: Limits,
    /// Largest message from a client, in bytes.
    pub max_message_bytes: usize,
    /// Time limit for the client to answer a close frame.
    pub linger: Duration,
    /// Unfinished messages of the whole process.
    pub unfinished: Arc<UnfinishedMemory>,
}

impl SocketContext {
    /// Returns the seconds that one message from a client may take at the moment.
    pub fn message_seconds(&self) -> u32 {
        self.unfinished.message_seconds(self.keepalive.message_seconds)
    }
}
