//! The rooms behind the handshake: a connection from its 101 to its end.

mod client_heartbeats;
mod close;
mod connection;
mod discarder;
mod frames;
mod keepalive;
mod reader;
mod reauthorize;

pub use close::Close;
#[cfg(test)]
pub(crate) use connection::sizes;
pub use connection::{Connection, ConnectionPermit, Parts};
pub use keepalive::{Keepalive, tick};
pub use reauthorize::read_joined;
