//! How a site's sessions are found and read.

use super::{KeyPattern, KeyTemplate, Secrets};

/// Which of a user's names stands in channel names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum UserName {
    /// The name that the Django package writes.
    Username,
    /// The primary key.
    Pk,
}

/// How sessions are found and read.
#[derive(Debug, Clone)]
pub struct Reading {
    /// Which cookie values can be session keys.
    pub pattern: KeyPattern,
    /// Where sessions are looked for, in order.
    pub templates: Vec<KeyTemplate>,
    /// The keys of signed sessions.
    pub secrets: Secrets,
    /// Which of a user's names stands in channel names.
    pub user: UserName,
}
