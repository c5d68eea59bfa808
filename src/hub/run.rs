//! Runs: messages of one topic that are sent together.

use std::cell::OnceCell;
use std::ops::Range;
use std::sync::Arc;

use bytes::{BufMut, Bytes, BytesMut};

use super::digests::Digester;
use crate::wire::Form;
use crate::wire::form::{Encodings, store, stored};
use crate::wire::live::LiveLabel;

/// Range of a stored message, and the digest of its payload.
pub(super) type Mark = (Range<usize>, u64);

/// Messages of one topic that are sent together, in one buffer that all listeners share.
///
/// Each form other than the stored one is encoded for the first listener that needs it, never per connection.
#[derive(Debug, Clone)]
pub struct Run {
    /// The messages as [`store`] encodes them.
    pub bytes: Bytes,
    /// The number of messages.
    pub messages: u32,
    /// A member of a local topic that has not accepted earlier messages yet does not get it.
    pub(super) is_volatile: bool,
    /// Computed for the first listener that filters messages by digest.
    marks: OnceCell<Box<[Mark]>>,
    encodings: Encodings,
}

impl Run {
    /// Wraps stored messages and their number.
    pub fn new(bytes: Bytes, messages: u32) -> Self {
        Self { bytes, messages, is_volatile: false, marks: OnceCell::new(), encodings: Encodings::default() }
    }

    /// Sets whether a member of a local topic that has not accepted earlier messages yet does not get it.
    #[must_use]
    pub fn with_volatile(self, is_volatile: bool) -> Self {
        Self { is_volatile, ..self }
    }

    /// Stores one message.
    pub fn of(payload: &[u8]) -> Self {
        let mut bytes = BytesMut::new();
        store(&mut bytes, payload);
        Self::new(bytes.freeze(), 1)
    }

    /// Joins runs of one topic, in order.
    pub fn join(mut runs: Vec<Self>) -> Option<Self> {
        if runs.len() < 2 {
            return runs.pop();
        }
        let mut bytes = BytesMut::with_capacity(runs.iter().map(|run| run.bytes.len()).sum());
        for run in &runs {
            bytes.put_slice(&run.bytes);
        }
        Some(Self::new(bytes.freeze(), runs.iter().map(|run| run.messages).sum()))
    }

    /// Returns the payloads, in order.
    pub fn payloads(&self) -> impl Iterator<Item = &[u8]> {
        stored(&self.bytes).map(|(_, payload)| &self.bytes[payload])
    }

    /// Returns the run in a form.
    #[inline]
    pub(super) fn in_form(&self, form: Form) -> &Bytes {
        // Inlined for the stored form, which most listeners have.
        if form.is_stored() { &self.bytes } else { self.encodings.get(form, &self.bytes, self.messages) }
    }

    /// Sets what its messages name in the forms of version 2. `is_last`: it is a topic's value.
    pub(super) fn set_label(&self, label: &Arc<LiveLabel>, is_last: bool) {
        self.encodings.set_label(label, is_last);
    }

    /// Returns whether this is the only reference to the bytes. Drops encodings that share the bytes of another form first.
    pub(super) fn make_unique(&mut self) -> bool {
        self.encodings.unshare();
        self.bytes.is_unique() && self.encodings.are_unique()
    }

    /// Returns the range and the digest of each message.
    pub(super) fn marks(&self, digester: &Digester) -> &[Mark] {
        self.marks.get_or_init(|| {
            let messages = stored(&self.bytes);
            messages.map(|(message, payload)| (message, digester.digest(&self.bytes[payload]))).collect()
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn joined_runs_keep_their_order() {
        let run = Run::join(vec![Run::of(b"a"), Run::of(b"b"), Run::of(b"c")]).unwrap();
        assert_eq!(run.messages, 3);
        assert_eq!(run.payloads().collect::<Vec<_>>(), [b"a", b"b", b"c"]);
        assert!(Run::join(Vec::new()).is_none());
    }
}
