//! Who a visitor is.

use crate::wire::SessionKey;

/// Who a visitor is, as far as the server knows. Who is logged in has a `user_id`, but maybe no known name.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Identity {
    /// The session, if it exists in the store.
    pub session: Option<SessionKey>,
    /// The user's primary key, if somebody is logged in.
    pub user_id: Option<String>,
    /// The user's name, if it is known.
    pub user: Option<String>,
    /// The names of the user's groups.
    pub groups: Vec<String>,
}

/// Most groups of one user, and the longest name of one, in bytes. Each is a channel, and Django's names have at most
/// 150 characters.
const MAX_GROUPS: usize = 1_024;
const MAX_NAME_BYTES: usize = 1_024;

/// Tells whether a user may be in these groups.
pub fn are_reasonable(groups: &[String]) -> bool {
    groups.len() <= MAX_GROUPS && groups.iter().all(|name| name.len() <= MAX_NAME_BYTES)
}

impl Identity {
    /// Returns the identity of somebody of whom nothing is known.
    pub fn anonymous() -> Self {
        Self::default()
    }
}
