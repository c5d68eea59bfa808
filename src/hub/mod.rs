//! The switchboard: which connection listens to which channel, and the way of a message to its sockets.
//!
//! One hub per shard, used by one thread: no lock and no `.await` in here. It writes to sockets at once and without
//! waiting; what a socket does not take stands in that connection's outbox, bounded in bytes.

mod directory;
mod echo;
mod hold;
mod listener;
mod outbox;
mod outbox_memory;
mod reauthorize;
mod recovery;
mod replays;
mod routing;
mod run;
mod shared;

pub(crate) use directory::Directory;
pub use echo::Digester;
pub use listener::{Ending, Listener, Liveness};
pub use outbox::Limits;
pub use outbox_memory::{OutboxMemory, ShardMemory};
#[cfg(test)]
pub(crate) use routing::SIZES;
pub use routing::{Generation, Hub, MemberId, NotJoined, SubscriptionRequest};
pub use run::Run;
pub use shared::{Addition, SharedHub, Subscription};
