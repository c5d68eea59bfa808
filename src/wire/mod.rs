//! Names and encodings of the protocols: plain values, no I/O, no async.
//!
//! [`Handshake`] is a client's request, [`Audience`] the receivers of a message, [`Channel`] the Redis channel of an
//! audience, and [`Form`] the framing of messages to one connection.

mod audience;
mod audience_names;
mod channel;
mod client_details;
mod control;
mod directive;
pub mod engine_io;
mod event_kind;
pub mod form;
mod handshake;
mod handshake_record;
mod history;
mod keyspace;
mod layer_host;
pub mod live;
mod message;
mod mount;
mod node_id;
pub mod socket_io;
pub mod sse;
mod timestamp;
mod topic;
pub mod websocket;

pub use audience::{Audience, AudienceKind, SessionKey};
pub use audience_names::{AudienceError, AudienceNames};
pub use channel::{Channel, Namespace, mask_sessions};
pub use client_details::ClientDetails;
pub use control::{DoctorQuery, Invalidation, SessionDigest};
pub use directive::{
    AckOrigin, AskedEvent, ClientAnswer, ClientName, Directive, DisconnectScope, EmitTarget, MAX_ROOM_BYTES,
};
pub use event_kind::{EventKind, EventKinds};
pub use form::Form;
pub use handshake::{Facility, Flags, Handshake, HandshakeError, parameters, query_pairs};
pub use handshake_record::{HandshakeParts, HandshakeRecord};
pub use history::{EntryId, HistoryNames, StreamKey, hash_tag, split_live};
pub use keyspace::{KeyEvent, PublishedEvents, channel_of, key_of};
pub use layer_host::{crc32, layer_host};
pub use message::Message;
pub use mount::{Mount, MountSet};
pub use node_id::NodeId;
pub use timestamp::iso_text;
pub use topic::{GroupForm, Scope, Topic};
