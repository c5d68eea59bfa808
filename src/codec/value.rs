//! A value of any format, and the budget that bounds it.

use super::DecodeError;

/// A value of any format.
#[derive(Debug, Clone, PartialEq)]
pub enum Value {
    /// Python's `None`, or null. JSON's non-standard `NaN` and infinities are null.
    Null,
    /// A boolean.
    Bool(bool),
    /// An integer of at most 64 bits.
    Integer(i64),
    /// The decimal digits of a larger integer, with a minus sign if it is negative.
    BigInteger(String),
    /// A floating-point number. A larger integer in JSON is one as well.
    Float(f64),
    /// A text.
    Text(String),
    /// A text with lone surrogates, in the encoding of Python's `surrogatepass`. Only pickle has such texts.
    Surrogates(Vec<u8>),
    /// A byte string.
    Bytes(Vec<u8>),
    /// A list or array.
    List(Vec<Self>),
    /// Python's tuple, which only pickle distinguishes from a list.
    Tuple(Vec<Self>),
    /// A map, in the order of the input. Repeated keys are kept; the last one counts.
    Map(Vec<(Self, Self)>),
    /// msgpack's extension: its type and its data.
    Extension(i8, Vec<u8>),
}

impl Value {
    /// Returns the value of a text key in a map.
    pub fn get(&self, key: &str) -> Option<&Self> {
        let Self::Map(pairs) = self else { return None };
        pairs.iter().rev().find(|(name, _)| name.as_str() == Some(key)).map(|(_, value)| value)
    }

    /// Returns a text.
    pub fn as_str(&self) -> Option<&str> {
        if let Self::Text(text) = self { Some(text) } else { None }
    }
}

/// The limits of a [`Value`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ValueLimits {
    /// Longest input, and most bytes of all texts and byte strings of the value: a pickle may repeat one by reference.
    pub bytes: usize,
    /// Most values, nested ones included; keys count as well. In a pickle also most entries of its stack and its memo.
    pub items: usize,
    /// Deepest nesting: a scalar has 0, an empty list 1. Also the depth of recursion, so it must be small.
    pub depth: usize,
}

/// What is left of the limits while a value is built.
pub(super) struct ValueBudget(ValueLimits);

impl ValueBudget {
    /// Starts with an input, if it is not too long.
    pub(super) fn new(input: &[u8], limits: ValueLimits) -> Result<Self, DecodeError> {
        if input.len() > limits.bytes { Err(DecodeError::TooLarge) } else { Ok(Self(limits)) }
    }

    /// Returns how many values are left.
    pub(super) fn items(&self) -> usize {
        self.0.items
    }

    /// Takes one value.
    pub(super) fn take_item(&mut self) -> Result<(), DecodeError> {
        self.0.items = self.0.items.checked_sub(1).ok_or(DecodeError::TooLarge)?;
        Ok(())
    }

    /// Takes the bytes of a text or a byte string.
    pub(super) fn take_bytes(&mut self, count: usize) -> Result<(), DecodeError> {
        self.0.bytes = self.0.bytes.checked_sub(count).ok_or(DecodeError::TooLarge)?;
        Ok(())
    }

    /// Enters a container; [`leave`](Self::leave) leaves it.
    pub(super) fn enter(&mut self) -> Result<(), DecodeError> {
        self.0.depth = self.0.depth.checked_sub(1).ok_or(DecodeError::TooLarge)?;
        Ok(())
    }

    pub(super) fn leave(&mut self) {
        self.0.depth += 1;
    }
}
