//! Requests that arrive on another shard than that of their session.

use std::os::fd::OwnedFd;

use bytes::Bytes;
use tokio::sync::oneshot;

use crate::http::{EngineError, SessionAnswer, SessionRequest};
use crate::stream::Permit;

/// A WebSocket that was accepted for a session of another shard.
pub struct AcceptedUpgrade {
    /// The secret id of the session.
    pub sid: String,
    /// The number of the upgrade.
    pub upgrade: u64,
    /// Counts the socket as a connection.
    pub permit: Permit,
    /// The socket.
    pub socket: OwnedFd,
    /// What its client sent after its handshake.
    pub early: Bytes,
}

/// A request for a session of another shard.
pub enum EngineCall {
    /// Answer a request. Dropping the receiver cancels it.
    Request(SessionRequest, oneshot::Sender<Result<SessionAnswer, EngineError>>),
    /// Serve a WebSocket that was accepted for a session.
    Adopt(AcceptedUpgrade),
}
