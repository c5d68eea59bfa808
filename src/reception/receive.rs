//! The order in which is asked who somebody is.

use std::time::Duration;

use super::sessions::Sessions;
use super::{NotReceived, Proof, Visitor};
use crate::access::Credentials;
use crate::wire::Handshake;

/// Finds out who somebody is.
#[derive(Debug)]
pub struct Reception {
    sessions: Sessions,
    /// Time after which a session is read again.
    recheck: Duration,
}

impl Reception {
    /// Takes those who can be asked, and the time after which a session is read again.
    pub fn new(sessions: Sessions, recheck: Duration) -> Self {
        Self { sessions, recheck }
    }

    /// Finds out who comes with these credentials, and this wish.
    ///
    /// # Errors
    ///
    /// When nobody can say who it is.
    pub async fn receive(
        &self,
        credentials: &Credentials,
        _handshake: &Handshake,
    ) -> Result<Visitor, NotReceived> {
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
            Proof::None => Ok(Visitor::default()),
        }
    }
}
