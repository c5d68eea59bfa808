//! Requests that arrive on another shard than that of their session.

use std::os::fd::OwnedFd;

use bytes::Bytes;
use tokio::sync::oneshot;

use crate::wire::engine_io::{EngineError, SessionAnswer, SessionRequest};

/// A request for a session of another shard.
#[derive(Debug)]
pub enum EngineCall {
    /// Answer a request. Dropping the receiver cancels it.
    Request(SessionRequest, oneshot::Sender<Result<SessionAnswer, EngineError>>),
    /// Serve a WebSocket that was accepted for the session with this id, and what its client sent after its handshake.
    Adopt(String, OwnedFd, Bytes),
}
