//! Records: the fields of a map that a caller needs.

use super::DecodeError;

/// Fields that are read from a map with text keys. The last value of a repeated key is used, as in Python.
pub trait Record: Default {
    /// Names a field.
    type Field: Copy + PartialEq;

    /// The limits of a record.
    const LIMITS: RecordLimits;

    /// Returns the field of a key; values of other keys are skipped.
    ///
    /// The key is passed as it is written, before escapes are decoded in pickles, so names should need no escapes.
    fn field(key: &[u8]) -> Option<Self::Field>;

    /// Sets a field. A repeated key sets it again.
    fn set(&mut self, field: Self::Field, value: FieldValue);
}

/// The limits of a record. What is skipped is limited by the length of the input alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RecordLimits {
    /// Longest text, decoded.
    pub text_bytes: usize,
    /// Most texts in a list.
    pub list_items: usize,
    /// Most values that a pickle creates, on its stack, in its memo and in containers. Each takes up to 36 bytes.
    pub pickle_entries: usize,
}

/// The value of a field, independent of the format.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FieldValue {
    /// A text.
    Text(String),
    /// An integer that fits into 64 bits.
    Number(i64),
    /// The texts in a list; its other items are ignored.
    List(Vec<String>),
    /// Anything else.
    Other,
}

impl FieldValue {
    /// Creates a text within the length limit.
    pub(super) fn text<R: Record>(text: &str) -> Result<Self, DecodeError> {
        if text.len() > R::LIMITS.text_bytes {
            Err(DecodeError::TooLarge)
        } else {
            Ok(Self::Text(text.to_owned()))
        }
    }

    /// Adds the value to a list, if it is a text.
    pub(super) fn add_to<R: Record>(self, list: &mut Vec<String>) -> Result<(), DecodeError> {
        if let Self::Text(text) = self {
            if list.len() == R::LIMITS.list_items {
                return Err(DecodeError::TooLarge);
            }
            list.push(text);
        }
        Ok(())
    }
}
