//! The order in which is asked who somebody is.

use super::sessions::Sessions;
use super::{NotReceived, Proof, Visitor};
use crate::access::Credentials;
use crate::wire::Handshake;

/// Finds out who somebody is.
#[derive(Debug)]
pub struct Reception {
    sessions: Sessions,
}

impl Reception {
    /// Takes those who can be asked.
    pub fn new(sessions: Sessions) -> Self {
        Self { sessions }
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

    /// Looks again at what somebody is known by.
    ///
    /// # Errors
    ///
    /// When nobody can say who it is.
    pub async fn again(&self, proof: &Proof) -> Result<Visitor, NotReceived> {
        match proof {
            Proof::Session(key) => self.sessions.receive(key.as_str()).await,
            Proof::None => Ok(Visitor::default()),
        }
    }
}
