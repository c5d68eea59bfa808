//! Records in a pickle.

use super::arena::{Arena, Index, Node};
use super::machine::Machine;
use super::selection::Fields;
use super::{numbers, text};
use crate::codec::{DecodeError, FieldValue, Record};

/// Most bytes per byte of a text: `\UXXXXXXXX` for one of ASCII.
const MAX_ESCAPE_BYTES: usize = 10;

/// A pickle reduced to the fields of a record.
pub struct RecordPickle<'a, R> {
    arena: Arena<'a, Fields<R>>,
    root: Index,
}

impl<'a, R: Record> RecordPickle<'a, R> {
    /// Runs a pickle.
    ///
    /// # Errors
    ///
    /// When it is damaged, or creates more entries than the record's limit.
    pub fn run(pickle: &'a [u8]) -> Result<Self, DecodeError> {
        let (arena, root) = Machine::run(pickle, R::LIMITS.pickle_entries)?;
        Ok(Self { arena, root })
    }

    /// Returns the outermost value.
    pub fn root(&self) -> PickleItem<'_, R> {
        PickleItem { arena: &self.arena, index: self.root }
    }
}

/// A value in a pickle.
pub struct PickleItem<'p, R> {
    arena: &'p Arena<'p, Fields<R>>,
    index: Index,
}

impl<R: Record> PickleItem<'_, R> {
    /// Returns the record in a dictionary; `None` for any other value.
    ///
    /// # Errors
    ///
    /// When a field exceeds its limit.
    pub fn record(&self) -> Result<Option<R>, DecodeError> {
        let dict = self.node();
        let Node::Dict { .. } = dict else { return Ok(None) };
        let mut record = R::default();
        let mut found: Vec<R::Field> = Vec::new();
        // From last to first, so that the last value of a repeated key is used.
        for (key, value) in self.arena.links(dict) {
            let Some(field) = self.arena.bytes(key).and_then(|(key, _)| R::field(key)) else { continue };
            if !found.contains(&field) {
                found.push(field);
                record.set(field, self.at(value).field_value()?);
            }
        }
        Ok(Some(record))
    }

    /// Returns the items of a tuple of three.
    pub fn triple(&self) -> Option<[Self; 3]> {
        Some(self.arena.triple(self.node())?.map(|index| self.at(index)))
    }

    /// Returns an integer that fits into 64 bits.
    pub fn integer(&self) -> Option<i64> {
        let Node::Integer { at } = self.node() else { return None };
        numbers::integer(self.arena.pickle(), at)
    }

    /// Returns whether the value is of a type that no record has, such as an instance of a class.
    pub fn is_opaque(&self) -> bool {
        self.node() == Node::Opaque
    }

    fn field_value(&self) -> Result<FieldValue, DecodeError> {
        let node = self.node();
        match node {
            Node::Text { .. } => self.text(),
            Node::Integer { .. } => Ok(self.integer().map_or(FieldValue::Other, FieldValue::Number)),
            Node::List { .. } | Node::Tuple { .. } => {
                let mut list = Vec::new();
                for (count, (_, item)) in self.arena.links(node).enumerate() {
                    // Counted here as well: one text can be linked many times, and each visit takes time.
                    if count == R::LIMITS.list_items {
                        return Err(DecodeError::TooLarge);
                    }
                    self.at(item).text()?.add_to::<R>(&mut list)?;
                }
                list.reverse();
                Ok(FieldValue::List(list))
            }
            _ => Ok(FieldValue::Other),
        }
    }

    fn text(&self) -> Result<FieldValue, DecodeError> {
        let Some((bytes, encoding)) = self.arena.bytes(self.index) else { return Ok(FieldValue::Other) };
        if bytes.len() > MAX_ESCAPE_BYTES * R::LIMITS.text_bytes {
            return Err(DecodeError::TooLarge);
        }
        match text::decode(bytes, encoding) {
            Some(text) => FieldValue::text::<R>(&text),
            None => Ok(FieldValue::Other),
        }
    }

    fn node(&self) -> Node {
        self.arena.node(self.index)
    }

    fn at(&self, index: Index) -> Self {
        Self { arena: self.arena, index }
    }
}
