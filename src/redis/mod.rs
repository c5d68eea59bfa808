//! The back door: everything that is said to Redis, and heard from it, through fred.
//!
//! [`Broker`] is the pub/sub side, one per process; [`Store`] the key side and publishing, one per shard.

mod broker;
mod connect;
mod interests;
mod lookups;
mod publisher;
mod pump;
mod reads;
mod receipts;
mod recovery;
mod store;
mod subscriber;

pub use broker::{Broker, Call, Inbox};
pub use connect::{Found, Target, Unusable, describe, examine, publish_once};
pub use lookups::Lookups;
pub use reads::{Entry, ReadFailed};
pub use receipts::{Failure, Receipts};
pub use store::Store;
