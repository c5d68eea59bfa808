//! The times of a connection, for the tick of its shard.

use std::cell::Cell;

/// Times of a connection in the shard's seconds.
#[derive(Debug, Default)]
pub struct Liveness {
    /// When the client last sent something.
    pub last_received: Cell<u32>,
    /// When the ping was sent that is not answered yet; 0 if there is none.
    pub pinged_at: Cell<u32>,
    /// When the last heartbeat was sent.
    pub last_heartbeat: Cell<u32>,
    /// When the client started the message that is not complete; 0 if there is none.
    pub message_started: Cell<u32>,
    /// The gateway does not read from the client at the moment, so its silence has no meaning.
    pub reading_paused: Cell<bool>,
    /// Seconds of silence before a ping is sent.
    pub ping_after: u32,
}

impl Liveness {
    /// Returns the times of a new connection. It is pinged after `ping_after` seconds of silence.
    pub(super) fn new(now: u32, ping_after: u32) -> Self {
        Self { last_received: now.into(), last_heartbeat: now.into(), ping_after, ..Self::default() }
    }
}
