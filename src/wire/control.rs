//! The contents of messages on the control channel: invalidations about users and sessions, and queries of the doctor.

use std::num::NonZeroU64;

use super::Facility;

/// A reason to re-read sessions, or the groups of a user.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Invalidation {
    /// The sessions of a user.
    User {
        /// The user's primary key.
        id: Box<str>,
        /// Whether the user logged out of one of them.
        logout: bool,
    },
    /// One session that was logged out.
    Session(SessionDigest),
    /// The Channels groups that Django has joined a user to: not a session, but the list has to be read again.
    Groups {
        /// The user's primary key.
        id: Box<str>,
    },
}

/// The first bytes of the SHA-256 of a session key: identifies the session and does not reveal the key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct SessionDigest(NonZeroU64);

/// A query of `manage.py ws4redis_doctor`.
#[derive(Clone, PartialEq, Eq)]
pub struct DoctorQuery {
    /// 32 hexadecimal digits that name the channel of the answer.
    pub nonce: Box<str>,
    /// The key of the session that the doctor created, if sessions are stored in Redis.
    pub session: Option<Box<str>>,
    /// Facilities that the site publishes to.
    pub facilities: Box<[Facility]>,
}

/// Omits the session key.
impl std::fmt::Debug for DoctorQuery {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("DoctorQuery").field("nonce", &self.nonce).finish_non_exhaustive()
    }
}

impl SessionDigest {
    /// Wraps the first bytes. Zero becomes one, so that an `Option` needs no extra bytes.
    pub fn new(first: u64) -> Self {
        Self(NonZeroU64::new(first).unwrap_or(NonZeroU64::MIN))
    }
}
