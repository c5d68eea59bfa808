//! The order in which is asked who somebody is.

use std::time::{Duration, SystemTime};

use super::sessions::Sessions;
use super::{NotReceived, Proof, Visitor, tokens};
use crate::access::Credentials;
use crate::access::token::Verifier;
use crate::wire::Handshake;

/// Finds out who somebody is.
#[derive(Debug)]
pub struct Reception {
    sessions: Sessions,
    tokens: Option<Verifier>,
    /// Time after which a session is read again.
    recheck: Duration,
}

/// Time after which it is noted that a token goes on; nobody is asked then.
const TOKEN_RECHECK: Duration = Duration::from_hours(24);

impl Reception {
    /// Takes those who can be asked, who verifies tokens, if they are taken, and the time after which a session is read
    /// again.
    pub fn new(sessions: Sessions, tokens: Option<Verifier>, recheck: Duration) -> Self {
        Self { sessions, tokens, recheck }
    }

    /// Finds out who comes with these credentials, and this wish. A token decides alone.
    ///
    /// # Errors
    ///
    /// When nobody can say who it is, or the token is not to be trusted.
    pub async fn receive(
        &self,
        credentials: &Credentials,
        _handshake: &Handshake,
    ) -> Result<Visitor, NotReceived> {
        if let (Some(token), Some(verifier)) = (&credentials.token, &self.tokens) {
            return tokens::receive(verifier, token, SystemTime::now());
        }
        match &credentials.session_cookie {
            Some(cookie) => self.sessions.receive(cookie).await,
            None => Ok(Visitor::default()),
        }
    }

    /// Returns who reads sessions.
    pub fn sessions(&self) -> &Sessions {
        &self.sessions
    }

    /// Returns after which time it is looked at again, at the latest, by what somebody is known.
    pub fn recheck(&self, visitor: &Visitor) -> Duration {
        match visitor.proof {
            Proof::Session(_) | Proof::None => self.recheck,
            Proof::Token(_) => TOKEN_RECHECK,
        }
    }

    /// Looks again at what somebody is known by, who was this before.
    ///
    /// # Errors
    ///
    /// When nobody can say who it is.
    pub async fn again(&self, before: &Visitor) -> Result<Visitor, NotReceived> {
        match &before.proof {
            Proof::Session(key) => self.sessions.again(key, before).await,
            // A token that is looked at again has ended: nothing else changes it.
            Proof::None | Proof::Token(_) => Ok(Visitor::default()),
        }
    }
}
