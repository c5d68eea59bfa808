//! The settings that locate and decode a site's sessions.

use super::{KeyPattern, KeyTemplate, Secrets};

/// The name of a user in channel names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum UserName {
    /// The username that the Django package writes.
    Username,
    /// The primary key.
    Pk,
}

/// The settings that locate and decode sessions.
#[derive(Debug, Clone)]
pub struct Reading {
    /// The pattern of session keys.
    pub pattern: KeyPattern,
    /// The templates of Redis keys, in the order of the lookup.
    pub templates: Vec<KeyTemplate>,
    /// The keys of signed sessions.
    pub secrets: Secrets,
    /// The name of a user in channel names.
    pub user: UserName,
}
