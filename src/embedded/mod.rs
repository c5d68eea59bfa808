//! A small in-memory Redis for development: RESP2 and RESP3, strings, streams, expiry, transactions, pub/sub,
//! keyspace events.
//!
//! It implements the commands that Django's sessions and caches, `RedisPublisher`, `redis-cli`, redis-py and fred use.
//! Deliberately absent: persistence beyond a snapshot of the strings, eviction, other data types, passwords, and addresses other than loopback.

mod client;
mod clock;
mod commands;
mod connection;
mod dispatch;
mod glob;
mod inline;
mod integer;
mod keyspace;
mod limits;
mod message_log;
mod output_buffer;
mod pubsub;
mod reply;
mod request;
mod scripts;
mod server;
mod snapshot;
mod store;

pub use limits::{ServeError, StoreLimits};
#[doc(hidden)]
pub use request::count_requests;
pub use server::serve;
