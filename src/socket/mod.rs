//! The bytes of a connection after its 101: reading, writing, closing, and keepalive.
//!
//! Not here: what a message means, which the dialects decide.

mod client_heartbeats;
mod close;
mod connection;
mod context;
mod discarder;
mod frames;
mod keepalive;
mod reader;

pub use close::Close;
pub use connection::{READS_PER_TURN, ReadMode, SocketConnection, yield_turn};
pub use context::SocketContext;
pub use keepalive::{Keepalive, enforce_deadlines, tick};
