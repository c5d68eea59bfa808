//! What is taken out of a session.

use std::fmt;

/// Longest text that is taken over; Django's user and group names have at most 150 characters.
const MAX_TEXT_BYTES: usize = 1_024;
/// Most groups of one user.
pub(super) const MAX_GROUPS: usize = 1_024;

/// What a session says of its visitor. A field is `None` if it is missing or no text.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Session {
    /// `_auth_user_id`: the user's primary key, as text. Nobody is logged in without it.
    pub user_id: Option<String>,
    /// `_auth_user_backend`: the dotted path of the authentication backend.
    pub backend: Option<String>,
    /// `_auth_user_hash`: Django's digest of the password column, in hex.
    pub auth_hash: Option<String>,
    /// `ws4redis:username`.
    pub username: Option<String>,
    /// `ws4redis:memberof`: names of groups; `None` in sessions that no login receiver has seen.
    pub groups: Option<Vec<String>>,
    /// `ws4redis:namespace`: the tenant, where one Django serves several, each with users of its own.
    pub namespace: Option<String>,
    /// `ws4redis:doctor`: a word by which the doctor of the Django package knows its own session again.
    pub doctor: Option<String>,
    /// When the session ends, in Unix seconds, where the value itself says so (django-redis' `HerdClient`, whose keys
    /// outlive their sessions); else the time to live of the key is what counts.
    pub ends_at: Option<i64>,
}

/// The digest of the password is not shown.
impl fmt::Debug for Session {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Session")
            .field("user_id", &self.user_id)
            .field("backend", &self.backend)
            .field("auth_hash", &self.auth_hash.as_ref().map(|_| format_args!("***")))
            .field("username", &self.username)
            .field("groups", &self.groups)
            .field("namespace", &self.namespace)
            .field("doctor", &self.doctor)
            .field("ends_at", &self.ends_at)
            .finish()
    }
}

/// A text or a number of groups beyond all reason.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Excessive;

/// The wanted keys of a session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Field {
    UserId,
    Backend,
    AuthHash,
    Username,
    Groups,
    Namespace,
    Doctor,
}

impl Field {
    /// Returns the field that this key of a session stands for.
    pub(super) fn named(key: &[u8]) -> Option<Self> {
        match key {
            b"_auth_user_id" => Some(Self::UserId),
            b"_auth_user_backend" => Some(Self::Backend),
            b"_auth_user_hash" => Some(Self::AuthHash),
            b"ws4redis:username" => Some(Self::Username),
            b"ws4redis:memberof" => Some(Self::Groups),
            b"ws4redis:namespace" => Some(Self::Namespace),
            b"ws4redis:doctor" => Some(Self::Doctor),
            _ => None,
        }
    }
}

/// The value of a wanted key, whatever form it came in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Value {
    Text(String),
    Number(i64),
    List(Vec<String>),
    /// Anything else.
    Other,
}

impl Value {
    /// Longest form in which a text of the greatest length can be written, every character of it escaped.
    pub(super) const MAX_WRITTEN_BYTES: usize = 10 * MAX_TEXT_BYTES;

    /// Takes a text, if it is no longer than texts may be.
    pub(super) fn text(text: &str) -> Result<Self, Excessive> {
        if text.len() > MAX_TEXT_BYTES { Err(Excessive) } else { Ok(Self::Text(text.to_owned())) }
    }
}

/// Adds a text to a list of groups; what is no text is left out.
pub(super) fn add_group(groups: &mut Vec<String>, value: Value) -> Result<(), Excessive> {
    if let Value::Text(name) = value {
        if groups.len() == MAX_GROUPS {
            return Err(Excessive);
        }
        groups.push(name);
    }
    Ok(())
}

impl Session {
    /// Puts the tenant before the user's primary key, as the user's key in Redis and hints have it. A key that is
    /// empty is nobody's.
    pub fn qualify_user(&mut self) {
        let namespace = self.namespace.take().filter(|namespace| !namespace.is_empty());
        let id = self.user_id.take().filter(|id| !id.is_empty());
        self.user_id = match (namespace, id) {
            (Some(namespace), Some(id)) => Some(format!("{namespace}:{id}")),
            (_, id) => id,
        };
    }

    /// Sets a field; what was there before is gone, whether the new value is usable or not.
    pub(super) fn set(&mut self, field: Field, value: Value) {
        let slot = match field {
            Field::UserId => &mut self.user_id,
            Field::Backend => &mut self.backend,
            Field::AuthHash => &mut self.auth_hash,
            Field::Username => &mut self.username,
            Field::Namespace => &mut self.namespace,
            Field::Doctor => &mut self.doctor,
            Field::Groups => {
                self.groups = if let Value::List(groups) = value { Some(groups) } else { None };
                return;
            }
        };
        *slot = match value {
            Value::Text(text) => Some(text),
            // Old sessions, and those that are not written by `login()`, may hold the key as a number.
            Value::Number(number) if field == Field::UserId => Some(number.to_string()),
            _ => None,
        };
    }
}
