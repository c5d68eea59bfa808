//! A visitor: identity, how it was established, and when it expires.

use std::rc::Rc;

use super::CallbackRequest;
use crate::access::session::Session;
use crate::access::token::Untrusted;
use crate::access::{Fingerprint, Identity};
use crate::redis::ReadFailed;
use crate::wire::{Flags, SessionKey};

/// A visitor: identity, how it was established, and when it expires.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Visitor {
    /// The identity.
    pub identity: Identity,
    /// The flags that the callback allows; `None` if only the site's rules apply.
    pub allowed: Option<Flags>,
    /// How the identity was established.
    pub auth_source: AuthSource,
    /// Index of the key template under which its session was found, if it is below 256.
    pub template: Option<u8>,
    /// Milliseconds until the identity expires, if it does.
    pub lives_ms: Option<u64>,
    /// The part of the session's content that is needed later: all of it for a cached copy, which may be evicted;
    /// otherwise only the user, if the session no longer logs that user in.
    pub content: Option<Rc<Session>>,
    /// Whether the session in Redis is only a cached copy; the database has the original.
    pub is_copy: bool,
    /// Whether the cached copy is missing now; the other fields are those of its last read.
    pub missing: bool,
}

impl Visitor {
    /// Returns whether the visitor showed any valid credential.
    pub fn is_known(&self) -> bool {
        self.auth_source != AuthSource::None
    }

    /// Returns the primary key of the session's user, even if the session no longer logs that user in.
    pub fn owner(&self) -> Option<&str> {
        let owner = self.content.as_ref().and_then(|session| session.user_id.as_deref());
        owner.or(self.identity.user_id.as_deref())
    }

    /// Returns whether two reads give the same identity, flags and source.
    pub fn is_same_as(&self, other: &Self) -> bool {
        (&self.identity, &self.allowed, &self.auth_source)
            == (&other.identity, &other.allowed, &other.auth_source)
    }
}

/// How an identity was established; the key of its lease.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub enum AuthSource {
    /// Anonymous.
    #[default]
    None,
    /// A session in Redis.
    Session(SessionKey),
    /// A token, valid until its `exp`.
    Token(Fingerprint),
    /// The callback's answer to a request.
    Callback(Rc<CallbackRequest>),
}

/// Why a visitor cannot be identified.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum IdentifyError {
    /// Redis is lost, or denies access to every key of the session.
    NoRedis,
    /// The token is invalid.
    Untrusted(Untrusted),
    /// Too many large sessions wait to be decoded.
    Busy,
    /// The callback refused the visitor.
    Refused,
    /// The callback gave no usable answer.
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
