//! The open sessions of Engine.IO: their ids, their state, and the table in which a shard finds them.
//!
//! Not here: packets (`wire`), and what a client or Django may do with a session (`dialects/socket_io`).

mod acks;
mod call;
mod gathering;
mod handshake_records;
mod ids;
mod named_sessions;
mod payload_cache;
mod sender;
mod session;
mod table;
mod unanswered;

pub use acks::PendingAcks;
pub use call::{AcceptedUpgrade, EngineCall};
pub use gathering::Gathering;
pub use ids::{Sid, SidCipher};
pub use named_sessions::{NamedSession, NamedSessionHold, NamedSessions};
pub use payload_cache::PayloadCache;
pub use sender::SenderState;
pub use session::{Deadline, EngineSession, NamespaceSocket, PollState, TransportState};
pub use table::{EngineTable, TICKS_PER_SECOND};
pub use unanswered::UnansweredEvents;

#[cfg(test)]
pub(crate) const SIZES: &[(&str, usize)] =
    // With the counters of its Rc.
    &[("EngineSession", 2 * size_of::<usize>() + size_of::<EngineSession>())];
