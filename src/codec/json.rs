//! JSON as Python writes it: `NaN` and the infinities are read as null.
//!
//! <https://docs.python.org/3/library/json.html#infinite-and-nan-number-values>

use std::fmt;
use std::marker::PhantomData;

use serde::Deserializer;
use serde::de::{Deserialize, DeserializeSeed, Error, IgnoredAny, MapAccess, SeqAccess, Visitor};

use super::value::ValueBudget;
use super::{DecodeError, FieldValue, Record, Value, ValueLimits};

/// Reads the fields of a record from an object; other values are skipped without recursion and without validating
/// numbers and surrogates.
///
/// # Errors
///
/// When the input is damaged or not an object, or a field exceeds its limit.
pub fn read_record<R: Record>(json: &[u8]) -> Result<R, DecodeError> {
    match parse_record(json) {
        Ok(record) => record,
        Err(_) => {
            without_constants(json).and_then(|json| parse_record(&json).ok()).ok_or(DecodeError::Damaged)?
        }
    }
}

fn parse_record<R: Record>(json: &[u8]) -> serde_json::Result<Result<R, DecodeError>> {
    let mut deserializer = serde_json::Deserializer::from_slice(json);
    let record = deserializer.deserialize_map(RecordVisitor(PhantomData))?;
    deserializer.end()?;
    Ok(record)
}

/// Reads a value.
///
/// # Errors
///
/// When the input is damaged or exceeds a limit. A text with a lone surrogate is damaged, since it has no UTF-8.
pub fn read_value(json: &[u8], limits: ValueLimits) -> Result<Value, DecodeError> {
    let parse = |text: &[u8]| {
        // A fresh budget: the first attempt may have used a part.
        let mut budget = ValueBudget::new(json, limits)?;
        let mut exceeded = false;
        let mut deserializer = serde_json::Deserializer::from_slice(text);
        let seed = ValueSeed { budget: &mut budget, exceeded: &mut exceeded };
        let value = seed.deserialize(&mut deserializer).and_then(|value| deserializer.end().map(|()| value));
        value.map_err(|_| if exceeded { DecodeError::TooLarge } else { DecodeError::Damaged })
    };
    match parse(json) {
        Err(DecodeError::Damaged) => {
            without_constants(json).map_or(Err(DecodeError::Damaged), |text| parse(&text))
        }
        other => other,
    }
}

/// Replaces escapes of lone surrogates, which a text in UTF-8 cannot have, by those of U+FFFD; `None` if there are none.
///
/// `JSON.stringify` writes them where a text was cut within a character:
/// <https://tc39.es/ecma262/#sec-quotejsonstring>
pub fn without_lone_surrogates(json: &[u8]) -> Option<Vec<u8>> {
    let mut text = json.to_vec();
    let (mut at, mut is_changed) = (0, false);
    while let Some(byte) = json.get(at) {
        if *byte != b'\\' {
            at += 1;
            continue;
        }
        match (surrogate_at(json, at), surrogate_at(json, at + 6)) {
            (None, _) => at += 2,
            (Some(false), Some(true)) => at += 12,
            (Some(_), _) => {
                text[at..at + 6].copy_from_slice(b"\\ufffd");
                is_changed = true;
                at += 6;
            }
        }
    }
    is_changed.then_some(text)
}

/// Returns whether the escape at a position is a low surrogate; `None` if it is not a surrogate.
fn surrogate_at(json: &[u8], at: usize) -> Option<bool> {
    let digits = json.get(at..at + 6)?.strip_prefix(b"\\u")?;
    let unit = u16::from_str_radix(str::from_utf8(digits).ok()?, 16).ok()?;
    matches!(unit, 0xd800..=0xdfff).then_some(unit >= 0xdc00)
}

/// Replaces `NaN` and the infinities, which are not JSON, with null and spaces; `None` if there are none.
fn without_constants(json: &[u8]) -> Option<Vec<u8>> {
    let mut text = Vec::with_capacity(json.len());
    let (mut at, mut copied, mut quoted) = (0, 0, false);
    while let Some(&byte) = json.get(at) {
        match byte {
            b'\\' => at += 1,
            b'"' => quoted = !quoted,
            b'N' | b'I' | b'-' if !quoted => {
                let constants = [&b"NaN"[..], b"Infinity", b"-Infinity"];
                if let Some(constant) = constants.iter().find(|constant| json[at..].starts_with(constant)) {
                    text.extend_from_slice(&json[copied..at]);
                    text.extend_from_slice(b"null");
                    at += constant.len();
                    copied = at;
                    continue;
                }
            }
            _ => {}
        }
        at += 1;
    }
    text.extend_from_slice(&json[copied..]);
    (copied > 0).then_some(text)
}

/// Deserialises a record.
struct RecordVisitor<R>(PhantomData<R>);

impl<'de, R: Record> Visitor<'de> for RecordVisitor<R> {
    type Value = Result<R, DecodeError>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut record = Ok(R::default());
        while let Some(FieldKey(field)) = map.next_key::<FieldKey<R>>()? {
            let (Some(field), Ok(found)) = (field, &mut record) else {
                map.next_value::<IgnoredAny>()?;
                continue;
            };
            match map.next_value_seed(FieldSeed::<R> { within_list: false, record: PhantomData })? {
                Ok(value) => found.set(field, value),
                // Read on: serde would report its own error for the rest.
                Err(error) => record = Err(error),
            }
        }
        Ok(record)
    }
}

/// A key of a record, deserialised as bytes so that lone surrogates are accepted.
struct FieldKey<R: Record>(Option<R::Field>);

impl<'de, R: Record> Deserialize<'de> for FieldKey<R> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct KeyVisitor<R>(PhantomData<R>);
        impl<R: Record> Visitor<'_> for KeyVisitor<R> {
            type Value = FieldKey<R>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a key")
            }

            fn visit_bytes<E>(self, key: &[u8]) -> Result<FieldKey<R>, E> {
                Ok(FieldKey(R::field(key)))
            }
        }
        deserializer.deserialize_bytes(KeyVisitor(PhantomData))
    }
}

/// Deserialises the value of a field, or an item of it.
struct FieldSeed<R> {
    within_list: bool,
    record: PhantomData<R>,
}

impl<'de, R: Record> DeserializeSeed<'de> for FieldSeed<R> {
    type Value = Result<FieldValue, DecodeError>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de, R: Record> Visitor<'de> for FieldSeed<R> {
    type Value = Result<FieldValue, DecodeError>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("any value")
    }

    fn visit_str<E>(self, text: &str) -> Result<Self::Value, E> {
        Ok(FieldValue::text::<R>(text))
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
        while map.next_entry::<FieldKey<R>, IgnoredAny>()?.is_some() {}
        Ok(Ok(FieldValue::Other))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Self::Value, A::Error> {
        if self.within_list {
            while list.next_element::<IgnoredAny>()?.is_some() {}
            return Ok(Ok(FieldValue::Other));
        }
        let mut texts = Vec::new();
        while let Some(item) = list.next_element_seed(Self { within_list: true, record: PhantomData })? {
            if let Err(error) = item.and_then(|item| item.add_to::<R>(&mut texts)) {
                while list.next_element::<IgnoredAny>()?.is_some() {}
                return Ok(Err(error));
            }
        }
        Ok(Ok(FieldValue::List(texts)))
    }
}

/// Deserialises a value of any type.
struct ValueSeed<'b> {
    budget: &'b mut ValueBudget,
    /// Set when a limit is exceeded, since an error of serde is only a text.
    exceeded: &'b mut bool,
}

impl ValueSeed<'_> {
    fn reborrow(&mut self) -> ValueSeed<'_> {
        ValueSeed { budget: self.budget, exceeded: self.exceeded }
    }

    fn within<E: Error>(&mut self, taken: Result<(), DecodeError>) -> Result<(), E> {
        taken.map_err(|error| {
            *self.exceeded = true;
            E::custom(error)
        })
    }
}

impl<'de> DeserializeSeed<'de> for ValueSeed<'_> {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(mut self, deserializer: D) -> Result<Value, D::Error> {
        let taken = self.budget.take_item();
        self.within(taken)?;
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for ValueSeed<'_> {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("any value")
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(Value::Bool(value))
    }

    fn visit_i64<E>(self, number: i64) -> Result<Value, E> {
        Ok(Value::Integer(number))
    }

    fn visit_u64<E>(self, number: u64) -> Result<Value, E> {
        Ok(i64::try_from(number).map_or_else(|_| Value::BigInteger(number.to_string()), Value::Integer))
    }

    fn visit_f64<E>(self, number: f64) -> Result<Value, E> {
        Ok(Value::Float(number))
    }

    fn visit_str<E>(self, text: &str) -> Result<Value, E> {
        Ok(Value::Text(text.to_owned()))
    }

    fn visit_seq<A: SeqAccess<'de>>(mut self, mut items: A) -> Result<Value, A::Error> {
        let entered = self.budget.enter();
        self.within(entered)?;
        let mut list = Vec::new();
        while let Some(item) = items.next_element_seed(self.reborrow())? {
            list.push(item);
        }
        self.budget.leave();
        Ok(Value::List(list))
    }

    fn visit_map<A: MapAccess<'de>>(mut self, mut entries: A) -> Result<Value, A::Error> {
        let entered = self.budget.enter();
        self.within(entered)?;
        let mut pairs = Vec::new();
        while let Some(key) = entries.next_key_seed(self.reborrow())? {
            pairs.push((key, entries.next_value_seed(self.reborrow())?));
        }
        self.budget.leave();
        Ok(Value::Map(pairs))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: ValueLimits = ValueLimits { bytes: 100, items: 10, depth: 3 };

    #[test]
    fn each_type_becomes_its_value() {
        let text = |text: &str| Value::Text(text.to_owned());
        for (json, expected) in [
            ("null", Value::Null),
            ("true", Value::Bool(true)),
            ("-7", Value::Integer(-7)),
            ("9223372036854775808", Value::BigInteger("9223372036854775808".to_owned())),
            ("1e2", Value::Float(100.0)),
            ("99999999999999999999", Value::Float(1e20)),
            (r#""\u00f6\ud83d\ude00""#, text("ö😀")),
            ("[1, []]", Value::List(vec![Value::Integer(1), Value::List(Vec::new())])),
            ("[NaN,-Infinity]", Value::List(vec![Value::Null, Value::Null])),
            (r#"{"a":Infinity}"#, Value::Map(vec![(text("a"), Value::Null)])),
            (r#"["\"NaN",NaN]"#, Value::List(vec![text("\"NaN"), Value::Null])),
        ] {
            assert_eq!(read_value(json.as_bytes(), LIMITS), Ok(expected), "{json}");
        }
        for damaged in ["", "[", "[1] 2", "Nan", r#""\ud800""#, "{1:2}", "\"\u{1}\"", "[NaN"] {
            assert_eq!(read_value(damaged.as_bytes(), LIMITS), Err(DecodeError::Damaged), "{damaged}");
        }
    }

    #[test]
    fn values_beyond_the_limits_are_refused() {
        for (json, fits) in [
            ("[[[]]]".to_owned(), true),
            ("[[[[]]]]".to_owned(), false),
            ("[".repeat(100), false),
            (format!("[{}1]", "1,".repeat(8)), true),
            (format!("[{}1]", "1,".repeat(9)), false),
            (format!("\"{}\"", "x".repeat(98)), true),
            (format!("\"{}\"", "x".repeat(99)), false),
        ] {
            let value = read_value(json.as_bytes(), LIMITS);
            assert_eq!(value.err(), (!fits).then_some(DecodeError::TooLarge), "{json}");
        }
    }

    proptest::proptest! {
        #[test]
        fn no_bytes_cause_a_panic(bytes in proptest::collection::vec(proptest::sample::select(b"{}[]\":,\\NaNInfinity-019u".to_vec()), 0..60)) {
            let _ = read_value(&bytes, LIMITS);
        }
    }
}
