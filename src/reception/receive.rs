//! The order in which is asked who somebody is.

use std::time::{Duration, SystemTime};

use super::{Callback, NotReceived, Proof, Sessions, Visitor, tokens};
use crate::access::token::Verifier;
use crate::access::{Credentials, GroupLists};
use crate::telemetry::Seldom;
use crate::wire::Handshake;

/// Finds out who somebody is.
#[derive(Debug)]
pub struct Reception {
    sessions: Sessions,
    tokens: Option<Verifier>,
    callback: Option<Callback>,
    /// Time after which a session is read again.
    recheck: Duration,
    groups: GroupLists,
    nameless: Seldom,
}

/// Time after which it is noted that a token goes on; nobody is asked then.
const TOKEN_RECHECK: Duration = Duration::from_hours(24);

impl Reception {
    /// Takes those who can be asked, who verifies tokens, if they are taken, and the time after which a session is read
    /// again. Where there is a callback, sessions are its business.
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
            nameless: Seldom::default(),
        }
    }

    /// Finds out who comes with these credentials, and this wish. A token decides alone.
    ///
    /// # Errors
    ///
    /// When nobody can say who it is, the site refuses the visitor, or the token is not to be trusted.
    pub async fn receive(
        &self,
        credentials: &Credentials,
        handshake: &Handshake,
    ) -> Result<Visitor, NotReceived> {
        if let (Some(token), Some(verifier)) = (&credentials.token, &self.tokens) {
            return tokens::receive(verifier, token, SystemTime::now(), &self.nameless)
                .map(|visitor| self.with_shared(visitor));
        }
        // Boxed: who shows nothing should not be carried about with room for a question.
        let received = match (&self.callback, &credentials.session_cookie) {
            (Some(callback), _) => Box::pin(callback.receive(credentials, handshake)).await,
            (None, Some(cookie)) => Box::pin(self.sessions.receive(cookie)).await,
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

    /// Returns after which time it is looked at again, at the latest, by what somebody is known.
    pub fn recheck(&self, visitor: &Visitor) -> Duration {
        match (&visitor.proof, &self.callback) {
            // Before the answer holds no longer, with time for another try.
            (Proof::Callback(_), Some(callback)) => visitor
                .lives_ms
                .map_or(callback.recheck(), |ms| callback.recheck().min(Duration::from_millis(ms / 4 * 3))),
            (Proof::Token(_), _) => TOKEN_RECHECK,
            _ => self.recheck,
        }
    }

    /// Looks again at what somebody is known by, who was this before.
    ///
    /// # Errors
    ///
    /// When nobody can say who it is, or the site refuses the visitor now.
    pub async fn again(&self, before: &Visitor) -> Result<Visitor, NotReceived> {
        let read = match (&before.proof, &self.callback) {
            (Proof::Session(key), _) => self.sessions.again(key, before).await,
            (Proof::Callback(question), Some(callback)) => callback.ask(question).await,
            // A token that is looked at again has ended: nothing else changes it.
            (Proof::None | Proof::Token(_), _) | (Proof::Callback(_), None) => Ok(Visitor::default()),
        };
        read.map(|visitor| self.with_shared(visitor))
    }

    /// Reads anew what somebody is known by who is about to be let in: who is missing is nobody.
    ///
    /// # Errors
    ///
    /// When nobody can say who it is.
    pub async fn afresh(&self, before: &Visitor) -> Result<Visitor, NotReceived> {
        match &before.proof {
            Proof::Session(key) => {
                Box::pin(self.sessions.receive(key.as_str())).await.map(|visitor| self.with_shared(visitor))
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
