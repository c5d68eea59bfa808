//! Leases of visitors' identities: one per session, token or callback answer, shared by its connections.

mod event_log;
mod hold;
mod lease;
mod leases;
mod table;

pub use event_log::InFlight;
pub use hold::{LeaseHold, PartialHold};
pub use lease::LeaseEnd;
#[cfg(test)]
pub(crate) use leases::SIZES;
pub use leases::{Leases, Watch};
