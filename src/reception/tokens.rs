//! Tokens, which say themselves who somebody is.

use std::sync::Arc;
use std::time::SystemTime;

use super::{NotReceived, Proof, Visitor};
use crate::access::token::{Claims, Verifier};
use crate::access::{Identity, Token};

/// Returns who shows this token. It has no session.
pub(super) fn receive(verifier: &Verifier, token: &Token, now: SystemTime) -> Result<Visitor, NotReceived> {
    let Claims { subject, groups, expires_at } = verifier.verify(token, now)?;
    let user: Option<Arc<str>> = subject.map(Into::into);
    let lives = expires_at.map(|end| end.duration_since(now).unwrap_or_default());
    Ok(Visitor {
        identity: Identity {
            session: None,
            user_id: user.clone(),
            user,
            groups: groups.into_iter().collect(),
        },
        proof: Proof::Token(token.fingerprint()),
        lives_ms: lives.map(|lives| u64::try_from(lives.as_millis()).unwrap_or(u64::MAX)),
        ..Visitor::default()
    })
}
