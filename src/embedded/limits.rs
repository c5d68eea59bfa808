//! What the store allows itself, and why it may refuse to start.

use std::{io, net::SocketAddr};

/// The bounds of the store; nothing in it grows beyond them.
#[derive(Debug, Clone)]
pub struct StoreLimits {
    /// Bytes for keys, values, subscriptions, watched keys and queued commands together.
    /// Requests and replies in transit of all clients together may take as much again.
    pub max_memory_bytes: usize,
    /// Clients connected at the same time.
    pub max_clients: usize,
    /// Bytes of one request; each argument counts 64 bytes on top of its length. By default a message of the largest size
    /// that is delivered, 16 MiB, fits with its command and channel.
    pub max_request_bytes: usize,
    /// Bytes that wait for one client: a subscriber above it is disconnected, and so is the asker of a larger reply.
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

/// Why the store does not serve.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// The listener's address can be reached from other machines, and the store knows no passwords.
    #[error("the embedded store listens on loopback addresses only, not on {0}")]
    NotLoopback(SocketAddr),
    /// The listener has no address.
    #[error("the embedded store cannot read the address of its listener")]
    Address(#[source] io::Error),
}
