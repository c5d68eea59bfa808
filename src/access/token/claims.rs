//! Claims whose names the settings choose.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::fmt;

use serde::de::{Error, MapAccess, Visitor};
use serde::{Deserialize, Deserializer};
use serde_json::Value;

/// All claims of a token that are not checked, each once (RFC 7519, section 4).
pub(super) struct OtherClaims(HashMap<String, Value>);

impl OtherClaims {
    /// Takes a claim out.
    pub(super) fn take(&mut self, name: &str) -> Option<Value> {
        self.0.remove(name)
    }

    /// Tells whether there is a claim that holds a text or a number.
    pub(super) fn has(&self, name: &str) -> bool {
        match self.0.get(name) {
            Some(Value::String(text)) => !text.is_empty(),
            Some(Value::Number(_)) => true,
            _ => false,
        }
    }
}

impl<'de> Deserialize<'de> for OtherClaims {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(Collecting)
    }
}

struct Collecting;

impl<'de> Visitor<'de> for Collecting {
    type Value = OtherClaims;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("claims")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<OtherClaims, A::Error> {
        let mut claims = HashMap::new();
        while let Some((name, value)) = map.next_entry()? {
            match claims.entry(name) {
                Entry::Vacant(place) => drop(place.insert(value)),
                Entry::Occupied(_) => return Err(A::Error::custom("a claim stands there twice")),
            }
        }
        Ok(OtherClaims(claims))
    }
}
