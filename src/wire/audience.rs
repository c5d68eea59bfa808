//! Audiences: the receivers of a message.

use std::fmt;
use std::sync::Arc;

/// The kinds of audience, in the order in which channels are subscribed to and replayed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum AudienceKind {
    /// Everybody.
    Broadcast,
    /// The members of a Django group.
    Group,
    /// One user, by name.
    User,
    /// One browser session.
    Session,
}

impl AudienceKind {
    /// All kinds, in the order of subscription and replay.
    pub const ALL: [Self; 4] = [Self::Broadcast, Self::Group, Self::User, Self::Session];

    /// Returns the kind with this name.
    pub fn of(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.word() == word)
    }

    /// Returns the kind's name in flags and in channel names.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Broadcast => "broadcast",
            Self::Group => "group",
            Self::User => "user",
            Self::Session => "session",
        }
    }
}

/// An audience: its kind and, except for broadcast, the name of its group, user or session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Audience<'a> {
    /// Everybody.
    Broadcast,
    /// The members of this group.
    Group(&'a str),
    /// The user with this name.
    User(&'a str),
    /// The session with this key.
    Session(&'a SessionKey),
}

impl Audience<'_> {
    /// Returns the audience's kind.
    pub const fn kind(&self) -> AudienceKind {
        match self {
            Self::Broadcast => AudienceKind::Broadcast,
            Self::Group(_) => AudienceKind::Group,
            Self::User(_) => AudienceKind::User,
            Self::Session(_) => AudienceKind::Session,
        }
    }
}

/// The key of a Django session. It is a credential, so `Debug` hides it.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct SessionKey(Arc<str>);

impl SessionKey {
    /// Wraps a key that has been validated against the key pattern.
    pub fn new(key: &str) -> Self {
        Self(key.into())
    }

    /// Returns the key itself.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for SessionKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SessionKey(***)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn debug_hides_a_session_key() {
        assert_eq!(format!("{:?}", SessionKey::new("abcdefgh")), "SessionKey(***)");
    }
}
