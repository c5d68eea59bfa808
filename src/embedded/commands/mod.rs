//! The commands: one table for each kind, with what Redis checks before it runs them.
//!
//! Adding one takes a function and a line in its table; nothing else knows their names.

mod admin;
mod client;
mod expiry;
mod keys;
mod options;
mod pubsub;
mod scripts;
mod strings;
mod table;
mod transactions;

pub(crate) use scripts::Script;
pub(crate) use table::{CommandCall, CommandSpec, When, find, run};
