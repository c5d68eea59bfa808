//! The commands: one table for each kind, with the checks that Redis makes before it runs them.
//!
//! A new command takes a function and a line in the table of its kind; no other file knows its name.

mod admin;
mod call;
mod client;
mod expiry;
mod history_scripts;
mod keys;
mod options;
mod pubsub;
mod scripts;
mod spec;
mod streams;
mod strings;
mod table;
mod transactions;

pub(crate) use call::CommandCall;
pub(crate) use spec::{CommandHandler, CommandSpec, When};
pub(crate) use table::find;
