//! The rooms behind the handshake: a connection from its 101 to its end.

mod close;
mod connection;
mod heartbeat;
mod reader;

pub use close::Close;
pub use connection::{Connection, Parts};
pub use heartbeat::{Beats, tick};
