//! Who a visitor is, how long that holds, and how much the visitor may publish.
//!
//! Not here: what a visitor may subscribe to and publish to, which `access` decides.

mod callback;
mod identify;
mod large_values;
mod profile;
mod rate_limit;
mod session;
mod token;
mod visitor;
pub mod watch;

use std::rc::Rc;
use std::sync::Arc;

use tokio::time::Instant;

pub use callback::{Callback, CallbackError, CallbackRequest, CallbackTransport, probe};
pub use identify::Identifier;
pub use large_values::LargeValues;
pub use rate_limit::{RateLimits, TokenBucket};
pub use session::{Probe, Sessions};
pub use visitor::{AuthSource, IdentifyError, Visitor};

use crate::access::{ClientAddress, Credentials, Identity, Rate};
use crate::hub::Listener;
use crate::wire::Handshake;
use watch::{InFlight, LeaseHold, Leases, Watch};

/// A shard's knowledge of its visitors.
pub struct Visitors {
    identifier: Rc<Identifier>,
    leases: Rc<Leases>,
    rate_limits: Arc<RateLimits>,
}

impl Visitors {
    /// Combines the shard's identifier and leases with the rate limits of the process.
    pub fn new(identifier: Rc<Identifier>, leases: Rc<Leases>, rate_limits: Arc<RateLimits>) -> Self {
        Self { identifier, leases, rate_limits }
    }

    /// Returns the identifier.
    pub fn identifier(&self) -> &Identifier {
        &self.identifier
    }

    /// Returns the leases of the visitors with open connections.
    pub fn leases(&self) -> &Rc<Leases> {
        &self.leases
    }

    /// Starts a handshake: invalidations are recorded for it until the guard is dropped. Call this before the first
    /// read, and keep the guard until [`add`](Self::add) has returned.
    pub fn begin(&self) -> InFlight {
        self.leases.begin()
    }

    /// Identifies a visitor; see [`Identifier::identify`].
    ///
    /// # Errors
    ///
    /// When identification fails.
    pub async fn identify(
        &self,
        credentials: &Credentials,
        handshake: &Handshake,
    ) -> Result<Visitor, IdentifyError> {
        self.identifier.identify(credentials, handshake).await
    }

    /// Re-reads a visitor's session just before admission; see [`Identifier::refresh`].
    ///
    /// # Errors
    ///
    /// When Redis cannot be read.
    pub async fn refresh(&self, before: &Visitor) -> Result<Visitor, IdentifyError> {
        self.identifier.refresh(before).await
    }

    /// Subscribes to the keyspace events of a visitor's session; see [`Leases::watch`].
    pub fn watch(&self, visitor: &Visitor) -> Option<Watch> {
        self.leases.watch(visitor)
    }

    /// Returns a newer and different state of this visitor, if its lease has one; see [`Leases::newer`].
    pub fn newer(&self, visitor: &Visitor, since: Instant) -> Option<(Instant, Visitor)> {
        self.leases.newer(visitor, since)
    }

    /// Adds a connection to its visitor's lease; see [`Leases::add`].
    pub fn add(
        &self,
        visitor: Visitor,
        since: Instant,
        listener: &Rc<Listener>,
        watch: Option<Watch>,
    ) -> Option<LeaseHold> {
        self.leases.add(visitor, since, listener, watch)
    }

    /// Returns the bucket that limits a visitor's publications; `None` when the rate has no limit.
    pub fn rate_limit(
        &self,
        identity: &Identity,
        address: ClientAddress,
        rate: Rate,
    ) -> Option<Arc<TokenBucket>> {
        self.rate_limits.limit(identity, address, rate)
    }
}
