//! Who somebody is: asked of Redis, where Django's sessions lie, or of whoever else the site names.

mod callback;
mod identify;
mod large_values;
mod profile;
mod rate_limit;
mod session;
mod token;
mod visitor;
pub mod watch;

pub use callback::{Callback, CallbackError, CallbackRequest, CallbackTransport, probe};
pub use identify::Visitors;
pub use large_values::LargeValues;
pub use rate_limit::{PublisherKey, RateLimits, TokenBucket};
pub use session::{Probe, Sessions};
pub use visitor::{AuthSource, IdentifyError, Visitor};
