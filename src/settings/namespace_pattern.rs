//! Patterns of Socket.IO namespaces.

use crate::wire::socket_io::MAX_NAMESPACE_BYTES;

/// A name of namespaces, or a prefix of some.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NamespacePattern {
    /// One name.
    Exact(String),
    /// All names that begin with this.
    Prefix(String),
}

impl NamespacePattern {
    pub(super) fn parse(text: &str) -> Option<Self> {
        let (name, is_prefix) = text.strip_suffix('*').map_or((text, false), |prefix| (prefix, true));
        let is_valid = name.starts_with('/')
            && name.len() <= MAX_NAMESPACE_BYTES
            && !name.contains(|c: char| c.is_control() || c == ',' || c == '*' || c == '?');
        let name = name.to_owned();
        is_valid.then_some(if is_prefix { Self::Prefix(name) } else { Self::Exact(name) })
    }

    /// Returns whether a namespace has this name.
    pub fn admits(&self, namespace: &str) -> bool {
        match self {
            Self::Exact(name) => name == namespace,
            Self::Prefix(prefix) => namespace.starts_with(prefix.as_str()),
        }
    }

    /// Returns whether it admits all names that another one admits.
    pub fn covers(&self, other: &Self) -> bool {
        match other {
            Self::Exact(name) => self.admits(name),
            Self::Prefix(prefix) => matches!(self, Self::Prefix(_)) && self.admits(prefix),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_namespace_is_a_name_or_a_prefix() {
        let admits = |pattern: &str, name: &str| NamespacePattern::parse(pattern).unwrap().admits(name);
        assert!(admits("/", "/") && !admits("/", "/chat"));
        assert!(admits("/room-*", "/room-1") && !admits("/room-*", "/room"));
        for invalid in ["", "chat", "/a,b", "/a*b", "*"] {
            assert_eq!(NamespacePattern::parse(invalid), None, "{invalid}");
        }
    }
}
