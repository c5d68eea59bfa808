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

impl Identity {
    /// Returns the identity of somebody of whom nothing is known.
    pub fn anonymous() -> Self {
        Self::default()
    }
}
