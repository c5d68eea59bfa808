//! The words of the gateway: plain values, no I/O, no async.
//!
//! What a client asks for ([`Handshake`]), which audience a message is for ([`Audience`]) and what the Redis
//! channel of that audience is called ([`Channel`]).

mod audience;
mod channel;
mod control;
pub mod form;
mod handshake;
mod keyspace;
mod message;
pub mod sse;
mod topic;
pub mod websocket;

pub use audience::{Audience, AudienceKind, SessionKey};
pub use channel::{Channel, Namespace, mask_sessions};
pub use control::{DoctorQuery, Hint, SessionDigest};
pub use form::Form;
pub use handshake::{Facility, Flags, Handshake, Malformed, parameters};
pub use keyspace::{KeyEvent, channel_of, key_of};
pub use message::Message;
pub use topic::{Scope, Topic};
