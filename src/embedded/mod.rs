//! The cellar: a small in-memory store that speaks RESP2 and RESP3, for trying out and for a single machine without Redis.
//!
//! It carries what Django's sessions and caches, `RedisPublisher`, `redis-cli`, redis-py and fred send in normal use.
//! Deliberately absent: persistence, eviction, data types other than strings, passwords, and any address but loopback.

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
mod output_buffer;
mod pubsub;
mod reply;
mod request;
mod scripts;
mod server;
mod store;

pub use limits::{ServeError, StoreLimits};
#[doc(hidden)]
pub use request::count_requests;
pub use server::serve;
