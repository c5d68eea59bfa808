//! Identification of visitors, the leases of their identities, and the rate limits of their publications.
//!
//! Not here: the permission to subscribe or publish, which `access` decides.

mod callback;
mod identify;
mod large_values;
mod profile;
mod rate_limit;
mod session;
mod token;
mod trial;
mod visitor;
pub mod watch;

use std::rc::Rc;
use std::sync::Arc;

pub use callback::{Callback, CallbackError, CallbackRequest, CallbackTransport, probe};
pub use identify::Identifier;
pub use large_values::LargeValues;
pub use profile::{profile, profile_of_handshake};
pub use rate_limit::{RateLimits, TokenBucket};
pub use session::{Probe, Sessions};
pub use trial::{CookieTrial, try_cookie};
pub use visitor::{AuthSource, IdentifyError, Visitor};

use crate::reloadable::Reloadable;
use watch::Leases;

/// The parts of a shard that identify and limit visitors.
pub struct Visitors {
    /// Identifies visitors.
    pub identifier: Rc<Reloadable<Identifier>>,
    /// The leases of the visitors with open connections.
    pub leases: Rc<Leases>,
    /// The rate limits of the process.
    pub rate_limits: Arc<RateLimits>,
}
