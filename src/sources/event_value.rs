//! Values that publishers wrote, as values of events.

use bytes::Bytes;

use crate::codec::Value;
use crate::wire::socket_io::EventValue;

/// What differs between the publishers.
pub(super) struct ValueRules {
    /// Returns whether a map keeps a member.
    pub(super) keeps: fn(&Value, &Value) -> bool,
    /// Returns the value of an extension type of `MessagePack`.
    pub(super) extension: fn(i8, &[u8]) -> Option<EventValue<'static>>,
}

impl ValueRules {
    /// Returns the value, or nothing if it holds an extension that has no value. Recursion is bounded by the depth of the value.
    pub(super) fn event_value(&self, value: Value) -> Option<EventValue<'static>> {
        Some(match value {
            Value::Null => EventValue::Null,
            Value::Bool(value) => EventValue::Bool(value),
            Value::Integer(value) => EventValue::Integer(value),
            Value::BigInteger(digits) => EventValue::BigInteger(digits.into()),
            Value::Float(value) => EventValue::Float(value),
            Value::Text(text) => EventValue::Text(text.into()),
            Value::Surrogates(text) => EventValue::Surrogates(text.into()),
            Value::Bytes(bytes) => EventValue::Bytes(Bytes::from(bytes)),
            Value::List(values) | Value::Tuple(values) => EventValue::List(self.event_values(values)?),
            Value::Map(pairs) => {
                let kept = pairs.into_iter().filter(|(key, value)| (self.keeps)(key, value));
                let pair = |(key, value)| Some((self.event_value(key)?, self.event_value(value)?));
                EventValue::Map(kept.map(pair).collect::<Option<_>>()?)
            }
            Value::Extension(kind, data) => (self.extension)(kind, &data)?,
        })
    }

    /// Returns the values of a list.
    pub(super) fn event_values(
        &self,
        values: impl IntoIterator<Item = Value>,
    ) -> Option<Vec<EventValue<'static>>> {
        values.into_iter().map(|value| self.event_value(value)).collect()
    }
}
