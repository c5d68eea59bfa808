//! Identifies the visitor of a request, after the checks that need no visitor.

use std::sync::atomic::Ordering;

use tokio::time::{Instant, timeout};
use tracing::{Span, warn};

use crate::http::{HandshakeRequest, Rejection};
use crate::shard::state::ShardState;
use crate::visitors::{IdentifyError, Visitor};

/// A visitor, and when reading it started.
pub(super) struct Identified {
    pub(super) visitor: Visitor,
    /// Changes after this time may be missing in it.
    pub(super) since: Instant,
}

/// Identifies the visitor of a request, and adds its user to the current span.
///
/// # Errors
///
/// When the server accepts no requests at the moment, or identification fails.
pub(super) async fn identify(
    state: &ShardState,
    request: &HandshakeRequest,
) -> Result<Identified, Rejection> {
    let since = Instant::now();
    if state.stopping.is_cancelled() {
        return Err(Rejection::Stopping);
    }
    if state.process.connections.load(Ordering::Relaxed) > state.process.max_connections {
        return Err(Rejection::Full);
    }
    // The broker has already logged why Redis is down.
    if !state.redis_up.get() {
        return Err(Rejection::NoRedis);
    }
    if !state.store.wait_briefly_until_up().await {
        return Err(no_redis(state, "this shard has no connection of its own to Redis"));
    }
    let identified = state.visitors.identifier.identify(&request.credentials, &request.handshake);
    let visitor = match timeout(state.process.settings.server.handshake, identified).await {
        Ok(Err(IdentifyError::NoRedis)) => Err(no_redis(state, "the session cannot be read")),
        Ok(identified) => Ok(identified?),
        Err(_) => Err(no_redis(state, "the session was not read within server.handshake_seconds")),
    }?;
    if let Some(user) = visitor.identity.user.as_ref().or(visitor.identity.user_id.as_ref()) {
        Span::current().record("user", tracing::field::debug(user));
    }
    Ok(Identified { visitor, since })
}

/// Returns the rejection of a request for which Redis fails, and logs the reason.
pub(super) fn no_redis(state: &ShardState, reason: &str) -> Rejection {
    if state.redis_up.get()
        && let Some(suppressed) = state.no_redis.allow()
    {
        warn!(reason, suppressed, "Redis failed during a handshake; the client gets 503");
    }
    Rejection::NoRedis
}

impl From<IdentifyError> for Rejection {
    fn from(error: IdentifyError) -> Self {
        match error {
            IdentifyError::NoRedis => Self::NoRedis,
            IdentifyError::Untrusted(untrusted) => Self::Untrusted(untrusted),
            IdentifyError::Busy => Self::Busy,
            IdentifyError::Refused => Self::Refused,
            IdentifyError::NoAnswer => Self::NoAnswer,
        }
    }
}
