//! JSON of decoded values, as the groups of Django Channels are delivered.

use std::fmt::Write;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;

use crate::codec::Value;
use crate::wire::socket_io::push_json_string;

/// A value has no equivalent in JSON: an extension of msgpack, or a container as a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the value has no equivalent in JSON")]
pub(super) struct NotJson;

/// Appends a value without white space; byte strings as base64, numbers that JSON lacks as null, keys that are no text as text.
/// Returns whether it has byte strings. Recursion is as deep as the value, whose depth the decoder bounds.
///
/// # Errors
///
/// When it has no equivalent in JSON.
pub(super) fn push_value(out: &mut String, value: &Value) -> Result<bool, NotJson> {
    let mut has_bytes = false;
    match value {
        Value::Bool(value) => out.push_str(if *value { "true" } else { "false" }),
        Value::Integer(number) => {
            // Writing to a String cannot fail.
            let _ = write!(out, "{number}");
        }
        Value::BigInteger(digits) => out.push_str(digits),
        Value::Float(number) if number.is_finite() => {
            let _ = write!(out, "{number:?}");
        }
        // JSON has no other floating-point numbers.
        Value::Null | Value::Float(_) => out.push_str("null"),
        Value::Text(text) => push_json_string(out, text),
        Value::Bytes(bytes) => {
            has_bytes = true;
            out.push('"');
            BASE64_STANDARD.encode_string(bytes, out);
            out.push('"');
        }
        Value::List(items) | Value::Tuple(items) => {
            out.push('[');
            for (index, item) in items.iter().enumerate() {
                if index > 0 {
                    out.push(',');
                }
                has_bytes |= push_value(out, item)?;
            }
            out.push(']');
        }
        Value::Map(pairs) => {
            out.push('{');
            for (index, (key, value)) in pairs.iter().enumerate() {
                if index > 0 {
                    out.push(',');
                }
                has_bytes |= push_key(out, key)?;
                out.push(':');
                has_bytes |= push_value(out, value)?;
            }
            out.push('}');
        }
        Value::Extension(..) | Value::Surrogates(_) => return Err(NotJson),
    }
    Ok(has_bytes)
}

/// Appends a key as a string.
fn push_key(out: &mut String, key: &Value) -> Result<bool, NotJson> {
    let (text, has_bytes) = key_text(key)?;
    push_json_string(out, &text);
    Ok(has_bytes)
}

/// Returns a key as text, and whether it is a byte string.
///
/// # Errors
///
/// For a container or an extension, which Python has not as keys.
pub(super) fn key_text(key: &Value) -> Result<(String, bool), NotJson> {
    Ok(match key {
        Value::Text(text) => (text.clone(), false),
        Value::Bytes(bytes) => (BASE64_STANDARD.encode(bytes), true),
        Value::List(_) | Value::Tuple(_) | Value::Map(_) => return Err(NotJson),
        scalar => {
            let mut text = String::new();
            push_value(&mut text, scalar)?;
            (text, false)
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_become_compact_json() {
        let text = |text: &str| Value::Text(text.to_owned());
        for (value, expected) in [
            (Value::Integer(-7), "-7"),
            (Value::BigInteger("18446744073709551615".to_owned()), "18446744073709551615"),
            (Value::Float(1.5), "1.5"),
            (Value::Float(0.1 + 0.2), "0.30000000000000004"),
            (Value::Float(1e300), "1e300"),
            (Value::Float(f64::NAN), "null"),
            (Value::Float(f64::NEG_INFINITY), "null"),
            (text("a\"\n\u{2028}é"), "\"a\\\"\\n\u{2028}é\""),
            (Value::Bytes(vec![0, 255]), "\"AP8=\""),
            (Value::List(vec![Value::Null, Value::Bool(true)]), "[null,true]"),
            (
                Value::Map(vec![
                    (text("b"), Value::Integer(1)),
                    (Value::Integer(2), Value::Null),
                    (Value::Null, Value::Null),
                    (Value::Float(0.5), Value::Null),
                ]),
                r#"{"b":1,"2":null,"null":null,"0.5":null}"#,
            ),
        ] {
            let mut out = String::new();
            assert_eq!(push_value(&mut out, &value), Ok(expected.contains("AP8=")));
            assert_eq!(out, expected);
        }
    }

    #[test]
    fn what_json_lacks_is_refused() {
        let key = Value::Map(vec![(Value::List(Vec::new()), Value::Null)]);
        for value in
            [Value::Extension(-1, vec![0; 4]), Value::List(vec![Value::Extension(5, Vec::new())]), key]
        {
            assert_eq!(push_value(&mut String::new(), &value), Err(NotJson));
        }
    }
}
