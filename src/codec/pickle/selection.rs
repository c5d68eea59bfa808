//! Which values of a pickle are kept.

use std::marker::PhantomData;

use crate::codec::Record;

/// A selection of values, known at compile time so that reading a record costs nothing for what it skips.
pub(super) trait Selection {
    /// Keeps every value, and refuses types that have no equivalent in `Value`.
    const EVERYTHING: bool;

    /// Returns whether a dictionary's pair with this key is kept.
    fn keeps(key: &[u8]) -> bool;
}

/// Everything, for a value.
pub(super) struct Everything;

impl Selection for Everything {
    const EVERYTHING: bool = true;

    fn keeps(_key: &[u8]) -> bool {
        true
    }
}

/// The fields of a record: dictionaries with these keys, texts, integers and lists of texts.
pub(super) struct Fields<R>(PhantomData<R>);

impl<R: Record> Selection for Fields<R> {
    const EVERYTHING: bool = false;

    fn keeps(key: &[u8]) -> bool {
        R::field(key).is_some()
    }
}
