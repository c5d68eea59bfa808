//! Why a connection has to end, before its dialect makes a close code of it.

/// Why a connection has to end, seen from the hub and the shard.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ending {
    /// Its outbox exceeds a bound.
    Slow,
    /// The outboxes of the process exceed their bound, and a frame was written in part.
    Torn,
    /// A write to its socket failed.
    Broken,
    /// The client did not complete a message in time.
    Late,
    /// The client did not answer a ping.
    Silent,
    /// The server stops or restarts.
    Restart,
    /// Its session has ended.
    SessionEnded,
    /// It has not joined a namespace in time.
    NotConnected,
    /// Redis cannot be reached, and what the client has sent may be lost.
    Overloaded,
    /// The last namespace that it was in has disconnected it.
    Disconnected,
}
