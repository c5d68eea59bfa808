//! Requests for a session of Engine.IO, and their answers.

use bytes::Bytes;

use crate::wire::Mount;
use crate::wire::engine_io::EngineVersion;

/// A request for a session, whose form and origin have been checked. Not `Debug`, because it holds secrets.
#[derive(Clone)]
pub struct SessionRequest {
    /// The mount of the request.
    pub mount: Mount,
    /// The client's protocol.
    pub version: EngineVersion,
    /// The secret id that the client names.
    pub sid: String,
    /// The value of the session cookie.
    pub cookie: Option<String>,
    /// What the client wants.
    pub action: SessionAction,
}

/// What a client wants of its session.
#[derive(Debug, Clone)]
pub enum SessionAction {
    /// The packets that wait, or the next ones.
    Poll,
    /// To send packets, which are still on their way: until then another post is refused.
    BeginPost,
    /// To send packets.
    Post {
        /// Whether [`SessionAction::BeginPost`] was requested before.
        has_begun: bool,
        /// The payload.
        body: PostBody,
        /// Whether its type is `application/octet-stream`.
        is_octet_stream: bool,
    },
    /// To move to a WebSocket. The number tells this attempt from earlier ones.
    Upgrade(u64),
}

/// The body of a post, which reaches its session even if it cannot be used.
#[derive(Debug, Clone)]
pub enum PostBody {
    /// The whole payload.
    Complete(Bytes),
    /// It exceeds the limit.
    TooLarge,
    /// The client did not send all of it, or not in time.
    Incomplete,
    /// The unfinished messages of all clients leave no memory for it.
    NoMemory,
}

/// The answer to a poll or a post.
#[derive(Debug)]
pub struct SessionAnswer {
    /// The `Content-Type`.
    pub content_type: &'static str,
    /// The body.
    pub body: Bytes,
}

/// An error of Engine.IO, with the code and the text of the official server (`Server.errors` of engine.io).
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum EngineError {
    /// The transport is missing, unknown or switched off.
    #[error("Transport unknown")]
    Transport,
    /// `j` asks for JSONP.
    #[error("JSONP is not supported")]
    Jsonp,
    /// No such session is here, or it belongs to another credential.
    #[error("Session ID unknown")]
    Session,
    /// A handshake that is not a GET.
    #[error("Bad handshake method")]
    Method,
    /// Any other fault of a request.
    #[error("Bad request: {0}")]
    Request(&'static str),
    /// A payload exceeds the limit.
    #[error("Payload too large")]
    TooLarge,
    /// The unfinished messages of all clients leave no memory for a payload.
    #[error("too many unfinished messages; try again in a few seconds")]
    NoMemory,
    /// `EIO` is missing, unknown or switched off.
    #[error("Unsupported protocol version")]
    Version,
}

impl EngineError {
    /// Code of requests whose fault has no code of its own.
    pub const BAD_REQUEST: u8 = 3;

    /// Code of requests that are forbidden.
    pub const FORBIDDEN: u8 = 4;

    /// Returns the code.
    pub const fn code(self) -> u8 {
        match self {
            Self::Transport | Self::Jsonp => 0,
            Self::Session => 1,
            Self::Method => 2,
            Self::Request(_) | Self::TooLarge | Self::NoMemory => Self::BAD_REQUEST,
            Self::Version => 5,
        }
    }
}
