//! The listener for the operator: health checks and the list of connections, on an address of its own. A second one has the
//! list of yunity-sockets, for programs that read it from the server that the gateway replaces.
//!
//! Each runs on a thread of its own, because shard 0 also runs the accept loop and the broker: a flood here, or a long
//! listing, must not delay them, and a health check must come back when a shard hangs. They talk to the shards by messages
//! only ([`Ask`]), and publish to Redis by connections of their own. Without their settings there is neither a thread nor a queue.
//!
//! Not here: what a connection shows of itself (`dialects`), and the public health check (`http`).
//!
//! [`Ask`]: crate::shard::ask::Ask

mod ask;
mod close;
mod connection;
mod connections;
mod guard;
mod health;
mod idempotency;
mod list;
mod metrics;
mod names;
mod process;
mod publish;
mod receivers;
mod refusal;
mod reload;
mod reply;
mod routes;
mod shards;
mod thread;
mod yunity;

pub use ask::{HealthQuestion, ask_for_page, ask_health, ask_to_close, ask_to_reload};
pub use publish::AdminPublisher;
pub use receivers::ask_receivers;
pub use reload::ReloadQuestion;
pub use routes::RouteSet;
pub use shards::{Shards, ask_queues};
pub use thread::start;
