//! The listener for the operator: health checks and the list of connections, on an address of its own.
//!
//! It runs on a thread of its own, because shard 0 also runs the accept loop and the broker: a flood here, or a long
//! listing, must not delay them, and a health check must come back when a shard hangs. It talks to the shards by messages
//! only ([`Ask`]). Without `admin.listen` there is neither the thread nor a queue.
//!
//! Not here: what a connection shows of itself (`dialects`), and the public health check (`http`).
//!
//! [`Ask`]: crate::shard::ask::Ask

mod connection;
mod connections;
mod guard;
mod health;
mod receivers;
mod refusal;
mod reply;
mod routes;
mod shards;
mod thread;

pub use receivers::ask_receivers;
pub use shards::{Shards, ask_queues};
pub use thread::start;
