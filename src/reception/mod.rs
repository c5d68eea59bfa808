//! Who somebody is: asked of Redis, where Django's sessions lie, or of whoever else the site names.

mod answer;
mod answers;
mod call;
mod callback;
mod large;
mod profile;
mod question;
mod receive;
mod sessions;
mod tokens;
mod visitor;

pub use call::{Failure, Way};
pub use callback::{Callback, probe};
pub use large::LargeValues;
pub use question::Question;
pub use receive::Reception;
pub use sessions::{Probe, Sessions};
pub use visitor::{NotReceived, Proof, Visitor};
