//! The fields of a session that the gateway uses.

use std::fmt;

/// Longest text of a field; Django's user and group names have at most 150 characters.
const MAX_TEXT_BYTES: usize = 1_024;
/// Most groups of one user.
pub(super) const MAX_GROUPS: usize = 1_024;

/// The fields of a session. A field is `None` if it is missing or not a text.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Session {
    /// `_auth_user_id`: the user's primary key as text. Without it the visitor is not logged in.
    pub user_id: Option<String>,
    /// `_auth_user_backend`: the dotted path of the authentication backend.
    pub backend: Option<String>,
    /// `_auth_user_hash`: Django's digest of the password column, in hex.
    pub auth_hash: Option<String>,
    /// `ws4redis:username`.
    pub username: Option<String>,
    /// `ws4redis:memberof`: names of groups; `None` if the login receiver did not run.
    pub groups: Option<Vec<String>>,
    /// `ws4redis:namespace`: the tenant, if one Django serves several with separate users.
    pub namespace: Option<String>,
    /// `ws4redis:doctor`: the nonce of the session that `manage.py ws4redis_doctor` creates.
    pub doctor: Option<String>,
    /// Expiry in Unix seconds, if the value has one (django-redis' `HerdClient`, whose keys outlive their sessions);
    /// otherwise the time to live of the key applies.
    pub ends_at: Option<i64>,
}

/// The password hash is secret, so `Debug` does not show it.
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

/// A text or a list of groups exceeds its limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Excessive;

/// The keys of a session that are read.
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
    /// Returns the field of a session key.
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

/// The value of a field, independent of the serialisation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum FieldValue {
    Text(String),
    Number(i64),
    List(Vec<String>),
    /// Anything else.
    Other,
}

impl FieldValue {
    /// Longest serialised form of a text of the maximum length, with every character escaped.
    pub(super) const MAX_ESCAPED_BYTES: usize = 10 * MAX_TEXT_BYTES;

    /// Creates a text within the length limit.
    pub(super) fn text(text: &str) -> Result<Self, Excessive> {
        if text.len() > MAX_TEXT_BYTES { Err(Excessive) } else { Ok(Self::Text(text.to_owned())) }
    }
}

/// Adds a text to a list of groups; other values are ignored.
pub(super) fn add_group(groups: &mut Vec<String>, value: FieldValue) -> Result<(), Excessive> {
    if let FieldValue::Text(name) = value {
        if groups.len() == MAX_GROUPS {
            return Err(Excessive);
        }
        groups.push(name);
    }
    Ok(())
}

impl Session {
    /// Prefixes the user's primary key with the tenant, as identity keys and hints do. An empty primary key is removed.
    pub fn qualify_user(&mut self) {
        let namespace = self.namespace.take().filter(|namespace| !namespace.is_empty());
        let id = self.user_id.take().filter(|id| !id.is_empty());
        self.user_id = match (namespace, id) {
            (Some(namespace), Some(id)) => Some(format!("{namespace}:{id}")),
            (_, id) => id,
        };
    }

    /// Sets a field. The old value is removed even if the new one is unusable.
    pub(super) fn set(&mut self, field: Field, value: FieldValue) {
        let slot = match field {
            Field::UserId => &mut self.user_id,
            Field::Backend => &mut self.backend,
            Field::AuthHash => &mut self.auth_hash,
            Field::Username => &mut self.username,
            Field::Namespace => &mut self.namespace,
            Field::Doctor => &mut self.doctor,
            Field::Groups => {
                self.groups = if let FieldValue::List(groups) = value { Some(groups) } else { None };
                return;
            }
        };
        *slot = match value {
            FieldValue::Text(text) => Some(text),
            // Old sessions, and those that `login()` did not write, may have a numeric primary key.
            FieldValue::Number(number) if field == Field::UserId => Some(number.to_string()),
            _ => None,
        };
    }
}
