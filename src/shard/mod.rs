//! One thread, one runtime, one hub: a shard owns its connections from accept to close.

pub mod ask;
pub mod connection_id;
mod deliver;
mod doctor;
mod names;
pub mod reload;
mod sample;
mod snapshot;
pub mod state;
mod thread;

pub use deliver::{BrokerLink, INBOX};
pub use thread::{ShardLinks, run, serve};
