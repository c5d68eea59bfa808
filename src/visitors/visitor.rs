//! Somebody, by what that is known, and for how long.

use std::rc::Rc;

use super::CallbackRequest;
use crate::access::session::Session;
use crate::access::token::Untrusted;
use crate::access::{Fingerprint, Identity};
use crate::redis::ReadFailed;
use crate::wire::{Flags, SessionKey};

/// Somebody, by what that is known, and for how long.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Visitor {
    /// Who it is.
    pub identity: Identity,
    /// The flags that whoever was asked allows; none if that is for the site's rules alone.
    pub allowed: Option<Flags>,
    /// By what it is known.
    pub auth_source: AuthSource,
    /// The template under which its session lies in Redis, by number, if it is one of the first 256.
    pub template: Option<u8>,
    /// Milliseconds until that is over, if it ends.
    pub lives_ms: Option<u64>,
    /// What the session said, where that may be needed: all where it is a copy only, to be judged by when that is
    /// missing; else only whose it is, where that user is not logged in by it any more.
    pub said: Option<Rc<Session>>,
    /// Whether the session is only a copy of what the database holds.
    pub is_copy: bool,
    /// Whether the copy is missing now, and the rest is what it said before.
    pub missing: bool,
}

impl Visitor {
    /// Tells whether anything is known.
    pub fn is_known(&self) -> bool {
        self.auth_source != AuthSource::None
    }

    /// Returns whose session it says that it is, by primary key, also where nobody may be logged in by it any more.
    pub fn owner(&self) -> Option<&str> {
        let said = self.said.as_ref().and_then(|session| session.user_id.as_deref());
        said.or(self.identity.user_id.as_deref())
    }

    /// Tells whether two readings come to the same.
    pub fn is_as(&self, other: &Self) -> bool {
        (&self.identity, &self.allowed, &self.auth_source)
            == (&other.identity, &other.allowed, &other.auth_source)
    }
}

/// By what a visitor is known, to be looked at again.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub enum AuthSource {
    /// Nothing is known.
    #[default]
    None,
    /// A session in Redis.
    Session(SessionKey),
    /// A token, which holds until it ends.
    Token(Fingerprint),
    /// The callback's answer to a question.
    Callback(Rc<CallbackRequest>),
}

/// Why nobody can say who it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum IdentifyError {
    /// Redis is lost, or refuses to give out any of the keys under which the session may lie.
    NoRedis,
    /// The token that it shows is not to be trusted.
    Untrusted(Untrusted),
    /// Too many large sessions wait to be decoded.
    Busy,
    /// The site does not want this visitor.
    Refused,
    /// The callback does not say who it is.
    NoAnswer,
}

impl From<Untrusted> for IdentifyError {
    fn from(untrusted: Untrusted) -> Self {
        Self::Untrusted(untrusted)
    }
}

impl From<ReadFailed> for IdentifyError {
    fn from(_: ReadFailed) -> Self {
        Self::NoRedis
    }
}
