//! The reception: who is this, and what may they hear and say.
//!
//! Everybody is anonymous here as long as there is no session reader; the types have their place already.

mod cookie;
mod identity;
mod origin;
mod policy;
pub mod session;

pub use cookie::value as cookie_value;
pub use identity::Identity;
pub use origin::{Allowed, Refused};
pub use policy::{Grant, Policy};
