//! The rooms behind the handshake: a connection from its 101 to its end.

mod allowance;
mod by_proof;
mod client_heartbeats;
mod close;
mod connection;
mod discarder;
mod frames;
mod heartbeat;
mod invalidations;
mod lease;
mod leases;
mod reader;
mod review;

pub use allowance::{Allowances, Bucket, Publisher};
pub use close::Close;
pub use connection::{Connection, Parts, Place};
pub use heartbeat::{Beats, tick};
pub use invalidations::InFlight;
pub use leases::{Leases, Share, Watch};
pub use review::read_joined;

#[cfg(test)]
pub(crate) use {connection::sizes, leases::SIZES};
