//! The hub: the topics of a shard, their members, and the delivery of messages to their sockets.
//!
//! A shard has one hub, which only its own thread uses, without a lock. Its methods never wait; tasks wait for a join and for
//! requests in `shared`. Writes do not block; what a socket does not accept is queued in the outbox of its connection, which
//! is bounded in bytes.

mod digests;
mod directory;
mod ending;
mod filter;
mod hold;
mod inspection;
mod labels;
mod listener;
mod liveness;
mod local;
mod local_index;
mod losses;
mod member;
mod members;
mod opening;
mod outbox;
mod outbox_memory;
mod routing;
mod run;
mod shared;
#[cfg(test)]
mod sizes;
mod topic;
mod transport;
mod value_cache;

pub use digests::Digester;
pub(crate) use directory::Directory;
pub use ending::Ending;
pub use hold::JoinError;
pub use inspection::{topic_count, topics_from};
pub use listener::Listener;
pub use listener::replay::send_exempt;
pub use liveness::Liveness;
pub use local::{LocalMember, LocalTopics};
pub use local_index::{ExpectedTopic, LocalIndex, ShardTopics};
pub use member::MemberId;
pub use opening::Replay;
pub use outbox::Limits;
pub use outbox_memory::{OutboxMemory, ShardMemory};
pub use routing::Hub;
pub use run::Run;
pub use shared::{Addition, SharedHub, Subscription};
#[cfg(test)]
pub(crate) use sizes::SIZES;
pub use topic::{Generation, SubscriptionRequest};
