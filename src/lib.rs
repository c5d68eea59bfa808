//! ws4redis stands between Redis and browsers: `Django -> Redis -> ws4redis -> WebSocket clients`, and back.
//!
//! The rooms, in reading order:
//!
//! - [`settings`], [`telemetry`], [`counters`]: what the operator says, and what is said to the operator;
//! - [`wire`]: the words (facility, audience, channel, handshake);
//! - [`commands`]: what the binary does besides serving; exit codes;
//! - [`server`] accepts, [`shard`] owns its connections from accept to close;
//! - [`http`]: everything before the 101; [`visitors`]: who is this; [`access`]: what may they hear and say;
//! - [`socket`]: everything after the 101; [`hub`]: which connection listens to which channel;
//! - [`unfinished`] messages are counted for the process; [`memory`] goes back to the system after a peak;
//! - [`redis`]: pub/sub and keys; [`embedded`]: a small Redis of our own for trying out.

pub mod access;
pub mod broker;
pub mod cli;
pub mod embedded;
pub mod http;
pub mod hub;
pub mod metrics;
pub mod redis;
pub mod server;
pub mod settings;
pub mod shard;
pub mod socket;
pub mod stream;
pub mod telemetry;
pub mod unfinished;
pub mod visitors;
pub mod wire;

#[cfg(test)]
mod sizes;
