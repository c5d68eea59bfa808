//! One thread, one runtime, one hub: a shard owns its connections from accept to close.

mod deliver;
mod doctor;
pub mod state;
mod thread;

pub use deliver::{BrokerLink, INBOX};
pub use thread::{run, serve};
