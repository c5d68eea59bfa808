//! Sessions in JSON: reads the fields of a session and skips the rest.
//!
//! Other values are skipped without recursion and without validating numbers and surrogates.

use std::fmt;

use serde::Deserializer;
use serde::de::{Deserialize, DeserializeSeed, IgnoredAny, MapAccess, SeqAccess, Visitor};

use super::content::{Excessive, Field, FieldValue, add_group};
use super::{Session, Undecodable};

/// Decodes a session; the last value of a repeated key is used, as in Python.
pub(super) fn read(json: &[u8]) -> Result<Session, Undecodable> {
    let session = match parse(json) {
        Ok(session) => session,
        Err(_) => without_constants(json).and_then(|json| parse(&json).ok()).ok_or(Undecodable::Json)?,
    };
    session.map_err(|Excessive| Undecodable::TooLarge)
}

fn parse(json: &[u8]) -> serde_json::Result<Result<Session, Excessive>> {
    let mut deserializer = serde_json::Deserializer::from_slice(json);
    let session = deserializer.deserialize_map(Root)?;
    deserializer.end()?;
    Ok(session)
}

/// Replaces `NaN` and the infinities, which Python writes although they are not JSON, with empty lists and spaces; `None`
/// if there are none.
fn without_constants(json: &[u8]) -> Option<Vec<u8>> {
    let mut text = json.to_vec();
    let (mut at, mut quoted, mut changed) = (0, false, false);
    while let Some(&byte) = text.get(at) {
        match byte {
            b'\\' => at += 1,
            b'"' => quoted = !quoted,
            b'N' | b'I' | b'-' if !quoted => {
                let constants = [&b"NaN"[..], b"Infinity", b"-Infinity"];
                if let Some(constant) = constants.iter().find(|constant| text[at..].starts_with(constant)) {
                    text[at..at + constant.len()].fill(b' ');
                    text[at..at + 2].copy_from_slice(b"[]");
                    at += constant.len() - 1;
                    changed = true;
                }
            }
            _ => {}
        }
        at += 1;
    }
    changed.then_some(text)
}

/// Deserialises the whole session.
struct Root;

impl<'de> Visitor<'de> for Root {
    type Value = Result<Session, Excessive>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a session")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut session = Ok(Session::default());
        while let Some(Key(field)) = map.next_key()? {
            let (Some(field), Ok(found)) = (field, &mut session) else {
                map.next_value::<IgnoredAny>()?;
                continue;
            };
            match map.next_value_seed(Wanted { within_list: false })? {
                Ok(value) => found.set(field, value),
                // Read on: serde would report its own error for the rest.
                Err(excessive) => session = Err(excessive),
            }
        }
        Ok(session)
    }
}

/// A key of the session, deserialised as bytes so that lone surrogates are accepted.
struct Key(Option<Field>);

impl<'de> Deserialize<'de> for Key {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct KeyVisitor;
        impl Visitor<'_> for KeyVisitor {
            type Value = Key;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a key")
            }

            fn visit_bytes<E>(self, key: &[u8]) -> Result<Key, E> {
                Ok(Key(Field::named(key)))
            }
        }
        deserializer.deserialize_bytes(KeyVisitor)
    }
}

/// Deserialises the value of a field, or an item of it.
struct Wanted {
    within_list: bool,
}

impl<'de> DeserializeSeed<'de> for Wanted {
    type Value = Result<FieldValue, Excessive>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Wanted {
    type Value = Result<FieldValue, Excessive>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("any value")
    }

    fn visit_str<E>(self, text: &str) -> Result<Self::Value, E> {
        Ok(FieldValue::text(text))
    }

    fn visit_i64<E>(self, number: i64) -> Result<Self::Value, E> {
        Ok(Ok(FieldValue::Number(number)))
    }

    fn visit_u64<E>(self, number: u64) -> Result<Self::Value, E> {
        Ok(Ok(i64::try_from(number).map_or(FieldValue::Other, FieldValue::Number)))
    }

    fn visit_f64<E>(self, _: f64) -> Result<Self::Value, E> {
        Ok(Ok(FieldValue::Other))
    }

    fn visit_bool<E>(self, _: bool) -> Result<Self::Value, E> {
        Ok(Ok(FieldValue::Other))
    }

    fn visit_unit<E>(self) -> Result<Self::Value, E> {
        Ok(Ok(FieldValue::Other))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        while map.next_entry::<Key, IgnoredAny>()?.is_some() {}
        Ok(Ok(FieldValue::Other))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Self::Value, A::Error> {
        if self.within_list {
            while list.next_element::<IgnoredAny>()?.is_some() {}
            return Ok(Ok(FieldValue::Other));
        }
        let mut groups = Vec::new();
        while let Some(item) = list.next_element_seed(Self { within_list: true })? {
            if let Err(excessive) = item.and_then(|item| add_group(&mut groups, item)) {
                while list.next_element::<IgnoredAny>()?.is_some() {}
                return Ok(Err(excessive));
            }
        }
        Ok(Ok(FieldValue::List(groups)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(json: &str, expected: &str) {
        let session =
            read(json.as_bytes()).map(|session| (session.user_id, session.username, session.groups));
        assert_eq!(format!("{session:?}"), expected, "{json}");
    }

    #[test]
    fn the_last_value_of_a_key_counts_and_wrong_types_are_nothing() {
        check("{}", "Ok((None, None, None))");
        check(r#"{"_auth_user_id":"1","_auth_user_id":"2"}"#, r#"Ok((Some("2"), None, None))"#);
        check(r#"{"_auth_user_id":7,"ws4redis:username":7}"#, r#"Ok((Some("7"), None, None))"#);
        check(r#"{"_auth_user_id":"1","_auth_user_id":null}"#, "Ok((None, None, None))");
        check(r#"{"ws4redis:username":{"a":[]},"_auth_user_id":true}"#, "Ok((None, None, None))");
        check(r#"{"ws4redis:memberof":["a",1,["b"],{"c":2},"d"]}"#, r#"Ok((None, None, Some(["a", "d"])))"#);
        check(r#"{"ws4redis:username":"J\u00f6hn"}"#, r#"Ok((None, Some("Jöhn"), None))"#);
    }

    #[test]
    fn everything_else_is_skipped_whatever_it_is() {
        let deep = format!("{}{}", "[".repeat(5_000), "]".repeat(5_000));
        let huge = "9".repeat(1_000);
        for other in
            [deep.as_str(), huge.as_str(), r#""\ud800""#, "NaN", "[-Infinity,Infinity]", r#""\"NaN""#]
        {
            let expected = r#"Ok((Some("1"), None, None))"#;
            check(&format!(r#"{{"other":{other},"_auth_user_id":"1"}}"#), expected);
            check(&format!(r#"{{"ws4redis:memberof":{{"x":{other}}},"_auth_user_id":"1"}}"#), expected);
        }
        check(r#"{"\ud800":NaN,"_auth_user_id":"NaN"}"#, r#"Ok((Some("NaN"), None, None))"#);
    }

    #[test]
    fn damaged_json_and_excess_are_refused() {
        for json in ["{", "{} x", r#"{"a":}"#, r#"{"_auth_user_id":"1""#, "[]", "{\"\\", "{\"a\":Nan}"] {
            check(json, "Err(Json)");
        }
        check(&format!(r#"{{"ws4redis:username":"{}","a":[1]}}"#, "x".repeat(1_025)), "Err(TooLarge)");
        check(
            &format!(r#"{{"ws4redis:memberof":[{}"x",1,"y"],"_auth_user_id":"1"}}"#, r#""x","#.repeat(1_024)),
            "Err(TooLarge)",
        );
    }

    proptest::proptest! {
        #[test]
        fn no_bytes_make_it_panic(bytes in proptest::collection::vec(proptest::sample::select(b"{}[]\":,\\NaNInfinity-019u".to_vec()), 0..60)) {
            let _ = read(&bytes);
            let length = without_constants(&bytes).map_or(bytes.len(), |text| text.len());
            proptest::prop_assert_eq!(length, bytes.len());
        }
    }
}
