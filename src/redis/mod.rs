//! The back door: everything that is said to Redis, and heard from it. Discovery finds the
//! server; what is said goes over connections of our own.
//!
//! [`Broker`] is the pub/sub side, one per process; [`Store`] the key side and publishing, one per shard.

mod answer;
mod broker;
mod cluster;
mod commands;
mod connect;
mod discovery;
mod error_reply;
mod events;
mod exchange;
mod feed;
mod hints;
mod inbox;
mod interests;
mod lanes;
mod line;
mod lookups;
mod once;
mod publisher;
mod pump;
mod reads;
mod receipts;
mod recovery;
pub mod resp;
mod retries;
mod sentinel;
mod slots;
mod store;
mod subscribing;
mod tls;
mod topology;
mod watching;

pub use broker::Broker;
pub use connect::{Target, Unusable};
pub use events::{Touch, channel_of, key_of};
pub use inbox::{Call, Inbox, Role};
pub use lookups::Lookups;
pub use once::{Found, examine, publish_once};
pub use reads::{Entry, ReadFailed};
pub use receipts::{Failure, Receipts};
pub use store::Store;

#[cfg(test)]
pub(crate) use interests::SIZES;
