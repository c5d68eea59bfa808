//! From where a client continues in the histories of a facility.

use tokio::time::Instant;

use crate::codec::{Value, ValueLimits, json};
use crate::wire::{Channel, EntryId};

/// Most values of an object in an address. Its length is bounded, too.
const MAX_ITEMS: usize = 2_048;

/// Which messages of a history a client wants.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Resume {
    /// Those after an entry, which may be of any audience.
    Since(EntryId),
    /// Those after an entry of each audience that is named as in messages.
    SinceEach(Vec<(String, EntryId)>),
    /// Those after an entry of each channel: after a loss. Until the moment no message was lost.
    After(Vec<(Channel, EntryId)>, Instant),
    /// The last ones.
    Last(usize),
}

impl Resume {
    /// Reads `since` of an object: an id, or an id for each audience.
    pub(super) fn since(value: Value) -> Option<Self> {
        let id = |value: &Value| value.as_str().and_then(EntryId::parse);
        let Value::Map(ids) = value else { return id(&value).map(Self::Since) };
        let each = ids.into_iter().map(|(name, value)| match name {
            Value::Text(name) => Some((name, id(&value)?)),
            _ => None,
        });
        each.collect::<Option<_>>().map(Self::SinceEach)
    }

    /// Reads `since` of an address: an id, or the object with an id for each audience.
    pub(super) fn since_in_address(text: &str) -> Option<Self> {
        if let Some(id) = EntryId::parse(text) {
            return Some(Self::Since(id));
        }
        let limits = ValueLimits { bytes: text.len(), items: MAX_ITEMS, depth: 1 };
        json::read_value(text.as_bytes(), limits).ok().and_then(Self::since)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_has_an_id_or_the_ids_of_audiences() {
        let id = |ms, seq| EntryId { ms, seq };
        assert_eq!(Resume::since_in_address("17-2"), Some(Resume::Since(id(17, 2))));
        let each = Resume::SinceEach(vec![("user".into(), id(1, 0)), ("group:a".into(), id(2, 0))]);
        assert_eq!(Resume::since_in_address(r#"{"user":"1-0","group:a":"2-0"}"#), Some(each));
        for other in
            ["", "x", "{}x", "[]", r#"{"user":1}"#, r#"{"user":"1"}"#, r#"{"user":{"a":"1-0"}}"#, "1"]
        {
            assert_eq!(Resume::since_in_address(other), None, "{other}");
        }
    }
}
