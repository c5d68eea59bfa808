//! ws4redis stands between Redis and browsers: `Django -> Redis -> ws4redis -> WebSocket clients`, and back.
//!
//! The modules, in reading order:
//!
//! - [`settings`], [`telemetry`], [`metrics`]: configuration, logs and counters;
//! - [`wire`]: the names and formats on the wire (facility, audience, channel, handshake), without I/O;
//! - [`codec`]: formats (pickle, msgpack, JSON, compression, RESP), without policy;
//! - [`cli`]: the subcommands and the exit codes;
//! - [`server`] accepts connections; a [`shard`] owns each of them from accept to close;
//! - [`admin`]: the listener for the operator;
//! - [`http`]: everything before the 101; [`visitors`]: authentication; [`access`]: its rules, and authorization;
//! - [`dialects`]: the protocols that clients speak; [`socket`]: bytes after the 101; [`hub`]: which connection receives which topic;
//! - [`broker`]: subscriptions to Redis; [`sources`]: what a message from Redis means;
//! - [`groups`]: the groups of Django Channels on a shard;
//! - [`redis`]: connections to Redis, reads and publications;
//! - [`unfinished`]: memory of unfinished messages, counted for the process;
//! - [`embedded`]: a small in-memory Redis for development.

pub mod access;
pub mod admin;
pub mod broker;
pub mod cli;
pub mod codec;
pub mod dialects;
pub mod embedded;
pub mod engine;
pub mod events;
pub mod groups;
pub mod http;
pub mod hub;
pub mod metrics;
pub mod presence;
pub mod redis;
pub mod reloadable;
pub mod server;
pub mod settings;
pub mod shard;
pub mod socket;
pub mod sources;
pub mod stream;
pub mod telemetry;
pub mod unfinished;
pub mod visitors;
pub mod wire;

#[cfg(test)]
mod sizes;
