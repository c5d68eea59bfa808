//! The audiences that a publisher names for one message.

use super::{Audience, Channel, Facility, Namespace, SessionKey};

/// The audiences of a message.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct AudienceNames {
    /// Whether it is for all clients.
    pub broadcast: bool,
    /// The users.
    pub users: Vec<String>,
    /// The groups.
    pub groups: Vec<String>,
    /// The session keys.
    pub sessions: Vec<String>,
}

/// Why audiences have no channels.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum AudienceError {
    /// There are none.
    #[error("no audience given")]
    None,
    /// A name is empty.
    #[error("names must not be empty")]
    Empty,
    /// A name has control characters.
    #[error("names must not hold control characters")]
    Control,
}

impl AudienceNames {
    /// Returns the channels of the audiences in a facility: broadcast, groups, users, sessions.
    ///
    /// # Errors
    ///
    /// When there are none, or a name is empty or has control characters.
    pub fn channels(
        &self,
        namespace: &Namespace,
        facility: &Facility,
    ) -> Result<Vec<Channel>, AudienceError> {
        let sessions: Vec<_> = self.sessions.iter().map(|key| SessionKey::new(key)).collect();
        let audiences = self.broadcast.then_some(Audience::Broadcast).into_iter();
        let audiences = audiences
            .chain(self.groups.iter().map(|name| Audience::Group(name)))
            .chain(self.users.iter().map(|name| Audience::User(name)))
            .chain(sessions.iter().map(Audience::Session));
        let channels: Vec<_> = audiences.map(|audience| namespace.channel(audience, facility)).collect();
        if channels.is_empty() {
            return Err(AudienceError::None);
        }
        let mut names = self.users.iter().chain(&self.groups).chain(&self.sessions);
        if names.any(String::is_empty) {
            return Err(AudienceError::Empty);
        }
        if channels.iter().any(|channel| channel.as_str().chars().any(char::is_control)) {
            return Err(AudienceError::Control);
        }
        Ok(channels)
    }
}
