//! The order in which is asked who somebody is.

use std::time::{Duration, SystemTime};

use super::{AuthSource, Callback, IdentifyError, Sessions, Visitor, token};
use crate::access::token::Verifier;
use crate::access::{Credentials, GroupLists};
use crate::telemetry::LogThrottle;
use crate::wire::Handshake;

/// Finds out who somebody is.
#[derive(Debug)]
pub struct Identifier {
    sessions: Sessions,
    tokens: Option<Verifier>,
    callback: Option<Callback>,
    /// Time after which a session is read revalidate.
    recheck: Duration,
    groups: GroupLists,
    nameless: LogThrottle,
}

/// Time after which it is noted that a token goes on; nobody is asked then.
const TOKEN_RECHECK: Duration = Duration::from_hours(24);

impl Identifier {
    /// Takes those who can be asked, who verifies tokens, if they are taken, and the time after which a session is read
    /// revalidate. Where there is a callback, sessions are its business.
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
        }
    }

    /// Finds out who comes with these credentials, and this wish. A token decides alone.
    ///
    /// # Errors
    ///
    /// When nobody can say who it is, the site refuses the visitor, or the token is not to be trusted.
    pub async fn identify(
        &self,
        credentials: &Credentials,
        handshake: &Handshake,
    ) -> Result<Visitor, IdentifyError> {
        if let (Some(token), Some(verifier)) = (&credentials.token, &self.tokens) {
            return token::identify(verifier, token, SystemTime::now(), &self.nameless)
                .map(|visitor| self.with_shared(visitor));
        }
        // Boxed: who shows nothing should not be carried about with room for a question.
        let received = match (&self.callback, &credentials.session_cookie) {
            (Some(callback), _) => Box::pin(callback.identify(credentials, handshake)).await,
            (None, Some(cookie)) => Box::pin(self.sessions.identify(cookie)).await,
            (None, None) => return Ok(Visitor::default()),
        };
        received.map(|visitor| self.with_shared(visitor))
    }

    /// Returns a visitor with the list of groups that it has in common with others.
    fn with_shared(&self, mut visitor: Visitor) -> Visitor {
        visitor.identity.groups = self.groups.share(visitor.identity.groups);
        visitor
    }

    /// Returns who reads sessions.
    pub fn sessions(&self) -> &Sessions {
        &self.sessions
    }

    /// Returns after which time it is looked at revalidate, at the latest, by what somebody is known.
    pub fn recheck(&self, visitor: &Visitor) -> Duration {
        match (&visitor.auth_source, &self.callback) {
            // Before the answer holds no longer, with time for another try.
            (AuthSource::Callback(_), Some(callback)) => visitor
                .lives_ms
                .map_or(callback.recheck(), |ms| callback.recheck().min(Duration::from_millis(ms / 4 * 3))),
            (AuthSource::Token(_), _) => TOKEN_RECHECK,
            _ => self.recheck,
        }
    }

    /// Looks revalidate at what somebody is known by, who was this before.
    ///
    /// # Errors
    ///
    /// When nobody can say who it is, or the site refuses the visitor now.
    pub async fn revalidate(&self, before: &Visitor) -> Result<Visitor, IdentifyError> {
        let read = match (&before.auth_source, &self.callback) {
            (AuthSource::Session(key), _) => self.sessions.revalidate(key, before).await,
            (AuthSource::Callback(question), Some(callback)) => callback.ask(question).await,
            // A token that is looked at revalidate has ended: nothing else changes it.
            (AuthSource::None | AuthSource::Token(_), _) | (AuthSource::Callback(_), None) => {
                Ok(Visitor::default())
            }
        };
        read.map(|visitor| self.with_shared(visitor))
    }

    /// Reads anew what somebody is known by who is about to be let in: who is missing is nobody.
    ///
    /// # Errors
    ///
    /// When nobody can say who it is.
    pub async fn refresh(&self, before: &Visitor) -> Result<Visitor, IdentifyError> {
        match &before.auth_source {
            AuthSource::Session(key) => {
                Box::pin(self.sessions.identify(key.as_str())).await.map(|visitor| self.with_shared(visitor))
            }
            _ => Ok(before.clone()),
        }
    }

    /// Forgets what was answered: the next who come are asked about anew.
    pub fn forget(&self) {
        if let Some(callback) = &self.callback {
            callback.forget();
        }
    }
}
