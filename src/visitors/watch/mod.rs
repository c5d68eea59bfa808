//! Leases of visitors' identities: one per session, token or callback answer, shared by its connections.

mod event_log;
mod lease;
mod leases;
mod table;

pub use event_log::InFlight;
#[cfg(test)]
pub(crate) use leases::SIZES;
pub use leases::{LeaseHold, Leases, Watch};
