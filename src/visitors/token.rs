//! Identification by a JSON Web Token.

use std::sync::Arc;
use std::time::SystemTime;

use tracing::info;

use super::{AuthSource, IdentifyError, Visitor};
use crate::access::token::{Claims, Verifier};
use crate::access::{Identity, Token};
use crate::telemetry::LogThrottle;

/// Returns the visitor of a token, which has no session.
pub(super) fn identify(
    verifier: &Verifier,
    token: &Token,
    now: SystemTime,
    nameless: &LogThrottle,
) -> Result<Visitor, IdentifyError> {
    let Claims { subject, groups, expires_at, other_name } = verifier.verify(token, now)?;
    if subject.is_none()
        && let Some(suppressed) = nameless.allow()
    {
        let claim = verifier.user_claim();
        let other = other_name.map(|other| format!(", but {other}"));
        info!(
            suppressed,
            "a valid token has no claim {claim}{}; its visitor is anonymous. Set auth.jwt.user_claim to the claim that has the name in user channels",
            other.unwrap_or_default()
        );
    }
    let user: Option<Arc<str>> = subject.map(Into::into);
    let lives = expires_at.map(|end| end.duration_since(now).unwrap_or_default());
    Ok(Visitor {
        identity: Identity {
            session: None,
            user_id: user.clone(),
            user,
            groups: groups.into_iter().collect(),
        },
        auth_source: AuthSource::Token(token.fingerprint()),
        lives_ms: lives.map(|lives| u64::try_from(lives.as_millis()).unwrap_or(u64::MAX)),
        ..Visitor::default()
    })
}
