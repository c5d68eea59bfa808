//! The objects of the protocol `ws4redis.2`: several facilities on one socket, and messages that name theirs.
//!
//! Not here: what a request does (`dialects/live`), and which connection gets a message (`hub`).

mod label;
mod message;
mod reply;

pub use label::{LiveLabel, LiveNames, head};
pub use message::decode_binary;
pub(super) use message::{LiveMessages, encode_events, encode_frames};
pub use reply::{
    ErrorReply, PresenceObject, SubscribedReply, frame_of, frame_with_id, gap, heartbeat, hello, ok, user,
};

/// The WebSocket subprotocol.
pub const SUBPROTOCOL: &str = "ws4redis.2";
