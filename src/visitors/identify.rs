//! Identification of a visitor: by its token, else by the auth callback, else by its session.

use std::time::{Duration, SystemTime};

use tracing::info;

use super::{AuthSource, Callback, IdentifyError, Sessions, Visitor, token};
use crate::access::token::Verifier;
use crate::access::{Credentials, GroupLists, Token};
use crate::telemetry::LogThrottle;
use crate::wire::Handshake;

/// Identifies visitors and revalidates their identities.
#[derive(Debug)]
pub struct Identifier {
    sessions: Sessions,
    tokens: Option<Verifier>,
    callback: Option<Callback>,
    /// Time after which a session is read again.
    recheck: Duration,
    groups: GroupLists,
    nameless: LogThrottle,
    refused: LogThrottle,
}

/// Time after which the lease of a token without `exp` is renewed. Nothing is read then.
const TOKEN_RECHECK: Duration = Duration::from_hours(24);

impl Identifier {
    /// Creates an identifier. With a callback, session cookies are passed to it and not read here. `recheck` is the
    /// time after which a session is read again.
    pub fn new(
        sessions: Sessions,
        tokens: Option<Verifier>,
        callback: Option<Callback>,
        recheck: Duration,
    ) -> Self {
        Self {
            sessions,
            tokens,
            callback,
            recheck,
            groups: GroupLists::default(),
            nameless: LogThrottle::default(),
            refused: LogThrottle::default(),
        }
    }

    /// Identifies the visitor of a handshake. If a token is sent and accepted here, nothing else is consulted.
    ///
    /// # Errors
    ///
    /// When Redis or the callback gives no answer, the site refuses the visitor, or the token is invalid.
    pub async fn identify(
        &self,
        credentials: &Credentials,
        handshake: &Handshake,
    ) -> Result<Visitor, IdentifyError> {
        if let Some(identified) = credentials.token.as_ref().and_then(|token| self.identify_token(token)) {
            return identified;
        }
        // Boxed: the future of a visitor without credentials stays small.
        let identified = match (&self.callback, &credentials.session_cookie) {
            (Some(callback), _) => Box::pin(callback.identify(credentials, handshake)).await,
            (None, Some(cookie)) => Box::pin(self.sessions.identify(cookie)).await,
            (None, None) => return Ok(Visitor::default()),
        };
        identified.map(|visitor| self.with_shared(visitor))
    }

    /// Identifies the owner of a token; `None` if tokens are not accepted.
    ///
    /// # Errors
    ///
    /// When the token is invalid.
    pub fn identify_token(&self, token: &Token) -> Option<Result<Visitor, IdentifyError>> {
        let verifier = self.tokens.as_ref()?;
        let identified = token::identify(verifier, token, SystemTime::now(), &self.nameless);
        if let Err(IdentifyError::Untrusted(reason)) = &identified
            && let Some(suppressed) = self.refused.allow()
        {
            info!(%reason, suppressed, "a token was refused (auth.jwt); its visitor gets 403, or connect_error with Unauthorized");
        }
        Some(identified.map(|visitor| self.with_shared(visitor)))
    }

    /// Returns the visitor with its list of groups shared with other visitors in the same groups.
    fn with_shared(&self, mut visitor: Visitor) -> Visitor {
        visitor.identity.groups = self.groups.share(visitor.identity.groups);
        visitor
    }

    /// Returns the reader of sessions.
    pub fn sessions(&self) -> &Sessions {
        &self.sessions
    }

    /// Returns the time after which a visitor is revalidated at the latest.
    pub fn recheck(&self, visitor: &Visitor) -> Duration {
        match (&visitor.auth_source, &self.callback) {
            // Before the answer expires, with time for a second attempt.
            (AuthSource::Callback(_), Some(callback)) => visitor
                .lives_ms
                .map_or(callback.recheck(), |ms| callback.recheck().min(Duration::from_millis(ms / 4 * 3))),
            (AuthSource::Token(_), _) => TOKEN_RECHECK,
            _ => self.recheck,
        }
    }

    /// Revalidates a visitor with an open connection.
    ///
    /// # Errors
    ///
    /// When Redis or the callback gives no answer, or the site refuses the visitor now.
    pub async fn revalidate(&self, before: &Visitor) -> Result<Visitor, IdentifyError> {
        let read = match (&before.auth_source, &self.callback) {
            (AuthSource::Session(key), _) => self.sessions.revalidate(key, before).await,
            (AuthSource::Callback(request), Some(callback)) => callback.revalidate(request).await,
            // A token is revalidated only when it has expired: nothing else changes it.
            (AuthSource::None | AuthSource::Token(_), _) | (AuthSource::Callback(_), None) => {
                Ok(Visitor::default())
            }
        };
        read.map(|visitor| self.with_shared(visitor))
    }

    /// Re-reads the session just before admission; a missing session means anonymous.
    ///
    /// # Errors
    ///
    /// When Redis cannot be read, or too many large sessions wait to be decoded.
    pub async fn refresh(&self, before: &Visitor) -> Result<Visitor, IdentifyError> {
        match &before.auth_source {
            AuthSource::Session(key) => {
                Box::pin(self.sessions.identify(key.as_str())).await.map(|visitor| self.with_shared(visitor))
            }
            _ => Ok(before.clone()),
        }
    }

    /// Evicts all cached answers of the callback.
    pub fn evict_answers(&self) {
        if let Some(callback) = &self.callback {
            callback.evict_answers();
        }
    }
}
