//! The claims whose names are configurable.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::fmt;

use serde::de::{Error, MapAccess, Visitor};
use serde::{Deserialize, Deserializer};
use serde_json::Value;

/// All claims of a token that are not verified. A duplicate name is refused (RFC 7519, section 4).
pub(super) struct OtherClaims(HashMap<String, Value>);

impl OtherClaims {
    /// Removes and returns a claim.
    pub(super) fn take(&mut self, name: &str) -> Option<Value> {
        self.0.remove(name)
    }

    /// Returns whether a claim is a non-empty string or a number.
    pub(super) fn has_name(&self, name: &str) -> bool {
        match self.0.get(name) {
            Some(Value::String(text)) => !text.is_empty(),
            Some(Value::Number(_)) => true,
            _ => false,
        }
    }
}

impl<'de> Deserialize<'de> for OtherClaims {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(ClaimsVisitor)
    }
}

struct ClaimsVisitor;

impl<'de> Visitor<'de> for ClaimsVisitor {
    type Value = OtherClaims;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("claims")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<OtherClaims, A::Error> {
        let mut claims = HashMap::new();
        while let Some((name, value)) = map.next_entry()? {
            match claims.entry(name) {
                Entry::Vacant(vacant) => drop(vacant.insert(value)),
                Entry::Occupied(_) => return Err(A::Error::custom("duplicate claim")),
            }
        }
        Ok(OtherClaims(claims))
    }
}
