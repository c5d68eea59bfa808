//! Everything between a sound handshake and its 101: who, what, joined, acknowledged, read; and messages and
//! queries that come in a request of their own.

use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use bytes::Bytes;
use tokio::time::{Instant, timeout};
use tracing::warn;

use super::Shard;
use crate::access::Grant;
use crate::http::{HandshakeRequest, Rejection, Visits};
use crate::hub::{NotJoined, Subscription};
use crate::metrics::Counters;
use crate::redis::{PublishAcks, PublishError};
use crate::socket::read_joined;
use crate::visitors::TokenBucket;
use crate::visitors::watch::{InFlight, Watch};
use crate::visitors::{IdentifyError, Visitor};
use crate::wire::Handshake;

/// What is ready when a handshake is answered.
pub struct Prepared {
    pub(super) subscription: Subscription,
    pub(super) handshake: Handshake,
    pub(super) visitor: Visitor,
    /// When the visitor began to be looked up.
    pub(super) since: Instant,
    /// What tells of the visitor's session, if nothing does yet.
    pub(super) watch: Option<Watch>,
    /// What happens to the visitor until the connection is registered is remembered for it.
    pub(super) in_flight: InFlight,
    pub(super) rate_limit: Option<Arc<TokenBucket>>,
    pub(super) grant: Grant,
    pub(super) persisted: Vec<Option<Bytes>>,
}

impl Visits for Shard {
    type Prepared = Prepared;

    async fn prepare(&self, request: HandshakeRequest) -> Result<Prepared, Rejection> {
        let patience = self.settings.server.handshake;
        let in_flight = self.visitors.begin();
        let mut since = Instant::now();
        let mut visitor = self.identify(&request).await?;
        let handshake = request.handshake;
        loop {
            let grant = self.parts.policy.grant(&handshake, &visitor.identity, visitor.allowed)?;
            let subscription = self.hub.join(&grant.subscribe);
            let watch = self.visitors.watch(&visitor);
            let again = async {
                // Where Redis does not tell, the session is only read again now and then.
                let unknown = watch.as_ref().filter(|watch| !watch.was_watched);
                let Some(Ok(())) = joined(unknown).await else { return Ok(None) };
                let since = Instant::now();
                Ok::<_, Rejection>(Some((since, self.visitors.refresh(&visitor).await?)))
            };
            let reading = async { Ok(read_joined(&subscription, &self.parts, &grant.subscribe).await?) };
            let (persisted, again) = match timeout(patience, async { tokio::try_join!(reading, again) }).await
            {
                Ok(Err(Rejection::NoRedis)) => return Err(self.no_redis("Redis was lost meanwhile")),
                Ok(done) => done?,
                Err(_) => return Err(self.no_redis("Redis did not do it within server.handshake_seconds")),
            };
            if let Some((later, again)) = again {
                since = later;
                let same = again.is_same_as(&visitor);
                visitor = again;
                // It changed between its first reading and the moment from which Redis tells.
                if !same {
                    continue;
                }
            }
            if let Some(newer) = self.visitors.newer(&visitor, since) {
                (since, visitor) = newer;
                continue;
            }
            if !self.hub.with(|hub| hub.has_room_for(&persisted)) {
                return Err(Rejection::Crowded);
            }
            let rate_limit =
                self.visitors.rate_limit(&visitor.identity, request.credentials.client_address, grant.rate);
            return Ok(Prepared {
                subscription,
                handshake,
                visitor,
                since,
                watch,
                in_flight,
                rate_limit,
                grant,
                persisted,
            });
        }
    }

    async fn introduce(&self, request: HandshakeRequest) -> Result<String, Rejection> {
        Ok(self.identify(&request).await?.profile())
    }

    async fn publish(&self, request: HandshakeRequest, message: Bytes) -> Result<(), Rejection> {
        let visitor = self.identify(&request).await?;
        let grant = self.parts.policy.grant(&request.handshake, &visitor.identity, visitor.allowed)?;
        if grant.publish.is_empty() {
            return Err(Rejection::Mute);
        }
        if message.is_empty() || self.parts.keepalive.is_heartbeat(&message) {
            Counters::count(&self.parts.counters.ignored_publications);
            return Ok(());
        }
        let rate_limit =
            self.visitors.rate_limit(&visitor.identity, request.credentials.client_address, grant.rate);
        if rate_limit.is_some_and(|bucket| !bucket.take(message.len())) {
            return Err(Rejection::TooFast);
        }
        let acks = Rc::<PublishAcks>::default();
        acks.issue(message.len());
        self.parts.store.publish(grant.publish.into(), message, acks.clone());
        match timeout(self.parts.publish_patience, acks.settled()).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(PublishError::Waited)) => Err(Rejection::NoRedis),
            Ok(Err(PublishError::Lost)) | Err(_) => Err(Rejection::Lost),
        }
    }
}

impl Shard {
    /// Finds out who comes, if anybody can be let in at all.
    async fn identify(&self, request: &HandshakeRequest) -> Result<Visitor, Rejection> {
        if self.stopping.is_cancelled() {
            return Err(Rejection::Stopping);
        }
        if self.parts.live.load(Ordering::Relaxed) > self.most_connections {
            return Err(Rejection::Full);
        }
        // Why the broker has lost Redis stands in the log already.
        if !self.redis_up.get() {
            return Err(Rejection::NoRedis);
        }
        if !self.parts.store.is_up().await {
            return Err(self.no_redis("this shard has no connection of its own to Redis"));
        }
        let received = self.visitors.identify(&request.credentials, &request.handshake);
        match timeout(self.settings.server.handshake, received).await {
            Ok(Err(IdentifyError::NoRedis)) => Err(self.no_redis("the session cannot be read")),
            Ok(received) => Ok(received?),
            Err(_) => Err(self.no_redis("the session was not read within server.handshake_seconds")),
        }
    }

    /// Returns the rejection where Redis does not do what a handshake needs; no such 503 is without a line in the log.
    fn no_redis(&self, reason: &str) -> Rejection {
        if self.redis_up.get()
            && let Some(suppressed) = self.no_redis.allow()
        {
            warn!(reason, suppressed, "a handshake got 503, for want of Redis");
        }
        Rejection::NoRedis
    }
}

async fn joined(watch: Option<&Watch>) -> Option<Result<(), NotJoined>> {
    Some(watch?.subscription.joined().await)
}

impl From<IdentifyError> for Rejection {
    fn from(failure: IdentifyError) -> Self {
        match failure {
            IdentifyError::NoRedis => Self::NoRedis,
            IdentifyError::Untrusted(untrusted) => Self::Untrusted(untrusted),
            IdentifyError::Busy => Self::Busy,
            IdentifyError::Refused => Self::Refused,
            IdentifyError::NoAnswer => Self::NoAnswer,
        }
    }
}

impl From<NotJoined> for Rejection {
    fn from(failure: NotJoined) -> Self {
        match failure {
            NotJoined::Lost => Self::NoRedis,
            NotJoined::Refused => Self::Unsubscribable,
            NotJoined::Flooded => Self::Flooded,
        }
    }
}
