//! Identifies the visitor of a request, after the checks that need no visitor.

use tokio::time::{Instant, timeout};
use tracing::{Span, warn};

use crate::http::{HandshakeRequest, Rejection};
use crate::shard::state::ShardState;
use crate::visitors::watch::Watch;
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
    if state.process.is_full() {
        return Err(Rejection::Full);
    }
    // The broker has already logged why Redis is down.
    if !state.redis_up.get() {
        return Err(Rejection::NoRedis);
    }
    if !state.store.wait_briefly_until_up().await {
        return Err(no_redis(state, "this shard has no connection of its own to Redis"));
    }
    let current = state.visitors.identifier.get();
    let identified = current.identify(&request.credentials, &request.handshake);
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

/// Reads a visitor again once the events of its session are acknowledged: an earlier change may have gone unnoticed. `None`
/// if another connection of the session was already watching it, or if there are no events.
///
/// # Errors
///
/// When Redis fails.
pub(super) async fn refresh(
    state: &ShardState,
    watch: Option<&Watch>,
    visitor: &Visitor,
) -> Result<Option<Identified>, Rejection> {
    let Some(watch) = watch.filter(|watch| !watch.was_watched) else { return Ok(None) };
    // Without events the session is only re-read periodically.
    if watch.subscription.joined().await.is_err() {
        return Ok(None);
    }
    let since = Instant::now();
    let visitor = state.visitors.identifier.get().refresh(visitor).await?;
    Ok(Some(Identified { visitor, since }))
}

/// Returns the latest state of a visitor, and whether it equals the one before it was refreshed.
pub(super) fn revalidate(
    state: &ShardState,
    before: Identified,
    refreshed: Option<Identified>,
) -> (Identified, bool) {
    let is_same = refreshed.as_ref().is_none_or(|latest| latest.visitor.is_same_as(&before.visitor));
    let latest = refreshed.unwrap_or(before);
    match state.visitors.leases.newer(&latest.visitor, latest.since) {
        Some((since, visitor)) if is_same => (Identified { visitor, since }, false),
        _ => (latest, is_same),
    }
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
