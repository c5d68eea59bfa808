//! Which events of Socket.IO clients Django gets, and the login event.

use serde::Deserialize;

use super::error::SettingsError;
use super::fields::{invalid, require};
use super::namespace_pattern::NamespacePattern;

/// Selects events of clients: by a name or a prefix of names, in all namespaces or in some.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EventSelector {
    namespace: Option<NamespacePattern>,
    name: String,
    is_prefix: bool,
}

impl EventSelector {
    fn parse(text: &str) -> Option<Self> {
        // Names of events may contain spaces, those of namespaces begin with a slash.
        let (namespace, name) = match text.split_once(' ') {
            Some((namespace, name)) if namespace.starts_with('/') => {
                (Some(NamespacePattern::parse(namespace)?), name)
            }
            _ if text.starts_with('/') => return None,
            _ => (None, text),
        };
        let (name, is_prefix) = name.strip_suffix('*').map_or((name, false), |prefix| (prefix, true));
        let is_valid = (is_prefix || !name.is_empty()) && !name.contains('*');
        is_valid.then(|| Self { namespace, name: name.to_owned(), is_prefix })
    }

    /// Parses a list.
    pub(super) fn parse_all(texts: &[String]) -> Result<Vec<Self>, SettingsError> {
        let parse = |text: &String| {
            Self::parse(text).ok_or_else(|| {
                invalid(
                    "socketio.client_events",
                    "expected names such as save, prefixes such as chat_*, or * for all, each perhaps behind a namespace and a space as in \"/chat save\"",
                )
            })
        };
        texts.iter().map(parse).collect()
    }

    /// Returns whether an event is selected.
    pub fn selects(&self, namespace: &str, name: &str) -> bool {
        let is_name = if self.is_prefix { name.starts_with(&self.name) } else { name == self.name };
        is_name && self.namespace.as_ref().is_none_or(|pattern| pattern.admits(namespace))
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawLogin {
    event: String,
    field: String,
    trust_client: bool,
}

/// Settings of `[socketio.login]`.
#[derive(Debug, Clone)]
pub struct LoginSettings {
    /// The name of the event; empty if there is none.
    pub event: String,
    /// The field of its first argument that names the user.
    pub field: String,
    /// Whether the named user is believed.
    pub trust_client: bool,
}

impl RawLogin {
    pub(super) fn check(self) -> Result<LoginSettings, SettingsError> {
        let Self { event, field, trust_client } = self;
        let is_unused = event.is_empty() && trust_client;
        require(!is_unused, "socketio.login.event", "is empty, so trust_client has no effect")?;
        require(!field.is_empty(), "socketio.login.field", "must be the name of a field, for example login")?;
        Ok(LoginSettings { event, field, trust_client })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_is_selected_by_name_prefix_and_namespace() {
        let selects = |text: &str, namespace: &str, name: &str| {
            EventSelector::parse(text).unwrap().selects(namespace, name)
        };
        assert!(selects("save", "/", "save") && selects("save", "/chat", "save"));
        assert!(!selects("save", "/", "save_all") && selects("chat_*", "/", "chat_x"));
        assert!(selects("*", "/", "anything") && selects("chat message", "/", "chat message"));
        assert!(selects("/chat save", "/chat", "save") && !selects("/chat save", "/", "save"));
        assert!(selects("/room-* chat message", "/room-1", "chat message"));
        for invalid in ["", "/chat", "/chat ", "a*b", "/a,b c"] {
            assert_eq!(EventSelector::parse(invalid), None, "{invalid}");
        }
    }
}
