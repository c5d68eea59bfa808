//! The rules of the house: who somebody is, by what Django says of them, and what they may hear and say. No I/O.

mod cookie;
mod credentials;
mod digest;
mod identity;
mod origin;
mod policy;
mod proxies;
mod rules;
pub mod session;
mod site;
pub mod token;

pub use cookie::value as cookie_value;
pub use credentials::{ClientAddress, Credentials, Fingerprint, Token};
pub use digest::session_digest;
pub use identity::{GroupLists, Groups, Identity, are_reasonable, is_reasonable};
pub use origin::{Allowed, Refused};
pub use policy::{Denied, Grant, Policy};
pub use proxies::{Peer, Proxies};
pub use rules::{Rate, Rule, Written};
