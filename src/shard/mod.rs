//! One thread, one runtime, one hub: a shard owns its connections from accept to close.

mod doctor;
mod inbox;
mod prepare;
mod thread;

pub use inbox::{INBOX, Line};
pub use thread::{Shard, Shared};
