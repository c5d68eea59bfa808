//! Runs: messages of one topic that are sent together.

use std::cell::OnceCell;
use std::ops::Range;
use std::sync::Arc;

use bytes::{BufMut, Bytes, BytesMut};

use super::digests::Digester;
use crate::metrics::cells;
use crate::wire::form::{Encodings, store, stored};
use crate::wire::live::LiveLabel;
use crate::wire::{EntryId, Form, split_live};

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

    /// Sets the indices of messages that another channel has delivered to listeners of version 2, in rising order.
    #[must_use]
    pub fn with_twins(mut self, twins: Vec<u32>) -> Self {
        self.encodings.set_twins(twins);
        self
    }

    /// Returns the same messages in bytes that are counted as held.
    pub(super) fn held_in(&self, bytes: Bytes) -> Self {
        Self::new(bytes, self.messages).with_twins(self.encodings.twins().to_vec())
    }

    /// Counts its delivery to so many listeners.
    #[expect(clippy::inline_always, reason = "each delivery pays for it")]
    #[inline(always)]
    pub(super) fn count(&self, listeners: usize) {
        cells(|cells| cells.count_delivered(listeners as u64, self.messages, self.bytes.len() as u64));
    }

    /// Counts its delivery to the listeners of a channel, and its length.
    #[expect(clippy::inline_always, reason = "each delivery pays for it")]
    #[inline(always)]
    pub(super) fn count_of_channel(&self, listeners: usize) {
        cells(|cells| {
            cells.count_delivered(listeners as u64, self.messages, self.bytes.len() as u64);
            cells.count_run(self.messages);
        });
    }

    /// Returns the messages with ids above one; none if there are none. Ids rise.
    pub(super) fn after(&self, id: EntryId) -> Option<Self> {
        let is_newer = |payload: &[u8]| split_live(payload).is_none_or(|(entry, _)| entry > id);
        let older = self.payloads().take_while(|payload| !is_newer(payload)).count();
        let start = stored(&self.bytes).nth(older)?.0.start;
        let older = u32::try_from(older).unwrap_or(self.messages);
        let twins = self.encodings.twins().iter().filter_map(|index| index.checked_sub(older)).collect();
        let newer = Self::new(self.bytes.slice(start..), self.messages - older).with_twins(twins);
        self.encodings.copy_label(&newer.encodings);
        Some(newer)
    }

    /// Returns the id of the last message; none if it has no id.
    pub(super) fn last_id(&self) -> Option<EntryId> {
        self.payloads().last().and_then(split_live).map(|(id, _)| id)
    }

    /// Returns the digest of each message, and its end in a form: that of the one before it if the form leaves it out.
    pub(super) fn ends_in(&self, form: Form, digester: &Digester) -> impl Iterator<Item = (u64, usize)> {
        let bytes = self.in_form(form);
        // The stored ranges are known; other forms are searched for the end of each message.
        let mut ends = form.ends(bytes);
        let twins = if form.has_objects() { self.encodings.twins() } else { &[] };
        let mut end = 0;
        (0..).zip(self.marks(digester)).map(move |(index, (stored, digest))| {
            if form.is_stored() {
                end = stored.end;
            } else if twins.binary_search(&index).is_err() {
                end = ends.next().unwrap_or(bytes.len());
            }
            (*digest, end)
        })
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
        let (mut messages, mut twins) = (0, Vec::new());
        for run in &runs {
            bytes.put_slice(&run.bytes);
            twins.extend(run.encodings.twins().iter().map(|index| messages + index));
            messages += run.messages;
        }
        Some(Self::new(bytes.freeze(), messages).with_twins(twins))
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
            let has_ids = self.encodings.has_ids();
            let digest = |payload: &[u8]| match split_live(payload).filter(|_| has_ids) {
                Some((_, message)) => digester.digest(message),
                None => digester.digest(payload),
            };
            messages.map(|(message, payload)| (message, digest(&self.bytes[payload]))).collect()
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
