//! The back door: everything that is said to Redis, and heard from it. fred finds the server and comes back to it; what
//! is said often goes over lines of our own.
//!
//! [`Broker`] is the pub/sub side, one per process; [`Store`] the key side and publishing, one per shard.

mod broker;
mod commands;
mod connect;
mod events;
mod exchange;
mod feed;
mod hints;
mod inbox;
mod interests;
mod line;
mod lookups;
mod publisher;
mod pump;
mod reads;
mod receipts;
mod recovery;
pub mod resp;
mod store;
mod watching;

pub use broker::Broker;
pub use connect::{Found, Target, Unusable, describe, examine, publish_once};
pub use events::{Touch, channel_of, key_of};
pub use inbox::{Call, Inbox, Role};
pub use lookups::Lookups;
pub use reads::{Entry, ReadFailed};
pub use receipts::{Failure, Receipts};
pub use store::Store;

#[cfg(test)]
pub(crate) use interests::SIZES;
