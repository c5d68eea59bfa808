//! Who somebody is: asked of Redis, where Django's sessions lie, or of whoever else the site names.

mod receive;
mod sessions;
mod tokens;
mod visitor;

pub use receive::Reception;
pub use sessions::{Probe, Sessions};
pub use visitor::{NotReceived, Proof, Visitor};
