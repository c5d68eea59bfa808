//! The limits of the store, and the errors of its start.

use std::{io, net::SocketAddr};

/// The limits of the store. All its memory is bounded by them.
#[derive(Debug, Clone)]
pub struct StoreLimits {
    /// Bytes of all keys, values, subscriptions, watched keys and queued commands.
    /// Incomplete requests and unsent output of all clients may use the same amount in addition.
    pub max_memory_bytes: usize,
    /// Clients connected at the same time.
    pub max_clients: usize,
    /// Bytes of one request; each argument counts 64 bytes in addition to its length. The default admits the largest
    /// message that is delivered, 16 MiB, with its command and channel.
    pub max_request_bytes: usize,
    /// Bytes of unsent output of one client. Above it the client is disconnected: it reads too slowly, or it requested
    /// a larger reply.
    pub max_output_bytes: usize,
}

impl Default for StoreLimits {
    fn default() -> Self {
        Self {
            max_memory_bytes: 256 << 20,
            max_clients: 1_000,
            max_request_bytes: 17 << 20,
            max_output_bytes: 32 << 20,
        }
    }
}

/// Why the store did not start.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// Other machines can reach the listener's address, and the store has no passwords.
    #[error("the embedded store listens on loopback addresses only, not on {0}")]
    NotLoopback(SocketAddr),
    /// The listener has no address.
    #[error("the embedded store cannot read the address of its listener")]
    Address(#[source] io::Error),
}
