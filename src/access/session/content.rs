//! The fields of a session that the gateway uses.

use std::fmt;

use crate::codec::{FieldValue, Record, RecordLimits};

/// Longest text of a field; Django's user and group names have at most 150 characters.
const MAX_TEXT_BYTES: usize = 1_024;
/// Most groups of one user.
const MAX_GROUPS: usize = 1_024;
/// Most values that a pickle creates. No session has a million values; 2^18 entries take 9 MiB.
pub(super) const MAX_PICKLE_ENTRIES: usize = 1 << 18;

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

/// The keys of a session that are read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SessionField {
    /// `_auth_user_id`.
    UserId,
    /// `_auth_user_backend`.
    Backend,
    /// `_auth_user_hash`.
    AuthHash,
    /// `ws4redis:username`.
    Username,
    /// `ws4redis:memberof`.
    Groups,
    /// `ws4redis:namespace`.
    Namespace,
    /// `ws4redis:doctor`.
    Doctor,
}

impl Session {
    /// Prefixes the user's primary key with the tenant, as identity keys and invalidations do. An empty primary key is removed.
    pub fn qualify_user(&mut self) {
        let namespace = self.namespace.take().filter(|namespace| !namespace.is_empty());
        let id = self.user_id.take().filter(|id| !id.is_empty());
        self.user_id = match (namespace, id) {
            (Some(namespace), Some(id)) => Some(format!("{namespace}:{id}")),
            (_, id) => id,
        };
    }
}

impl Record for Session {
    type Field = SessionField;

    const LIMITS: RecordLimits = RecordLimits {
        text_bytes: MAX_TEXT_BYTES,
        list_items: MAX_GROUPS,
        pickle_entries: MAX_PICKLE_ENTRIES,
    };

    fn field(key: &[u8]) -> Option<SessionField> {
        match key {
            b"_auth_user_id" => Some(SessionField::UserId),
            b"_auth_user_backend" => Some(SessionField::Backend),
            b"_auth_user_hash" => Some(SessionField::AuthHash),
            b"ws4redis:username" => Some(SessionField::Username),
            b"ws4redis:memberof" => Some(SessionField::Groups),
            b"ws4redis:namespace" => Some(SessionField::Namespace),
            b"ws4redis:doctor" => Some(SessionField::Doctor),
            _ => None,
        }
    }

    /// The old value is removed even if the new one is unusable.
    fn set(&mut self, field: SessionField, value: FieldValue) {
        let slot = match field {
            SessionField::UserId => &mut self.user_id,
            SessionField::Backend => &mut self.backend,
            SessionField::AuthHash => &mut self.auth_hash,
            SessionField::Username => &mut self.username,
            SessionField::Namespace => &mut self.namespace,
            SessionField::Doctor => &mut self.doctor,
            SessionField::Groups => {
                self.groups = if let FieldValue::List(groups) = value { Some(groups) } else { None };
                return;
            }
        };
        *slot = match value {
            FieldValue::Text(text) => Some(text),
            // Old sessions, and those that `login()` did not write, may have a numeric primary key.
            FieldValue::Number(number) if field == SessionField::UserId => Some(number.to_string()),
            _ => None,
        };
    }
}
