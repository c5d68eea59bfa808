//! The value of a stream: entries in the order of their ids.

use std::collections::VecDeque;
use std::fmt;
use std::ops::RangeInclusive;

use bytes::Bytes;

/// Overhead of an entry, and of a field or its value.
const ENTRY_BYTES: usize = 64;
const FIELD_BYTES: usize = 32;

/// The id of an entry: milliseconds and a number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub(crate) struct LogId(pub(crate) u64, pub(crate) u64);

impl LogId {
    pub(crate) const MAX: Self = Self(u64::MAX, u64::MAX);

    /// Returns the next id; none after the last one.
    pub(crate) fn next(self) -> Option<Self> {
        match self.1.checked_add(1) {
            Some(number) => Some(Self(self.0, number)),
            None => Some(Self(self.0.checked_add(1)?, 0)),
        }
    }

    /// Returns the previous id; none before the first one.
    pub(crate) fn previous(self) -> Option<Self> {
        match self.1.checked_sub(1) {
            Some(number) => Some(Self(self.0, number)),
            None => Some(Self(self.0.checked_sub(1)?, u64::MAX)),
        }
    }
}

impl fmt::Display for LogId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.0, self.1)
    }
}

/// An entry: fields and values, alternating.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct LogEntry {
    pub(crate) id: LogId,
    pub(crate) fields: Box<[Bytes]>,
}

impl LogEntry {
    /// Returns the memory that it uses.
    pub(crate) fn bytes(&self) -> usize {
        ENTRY_BYTES + self.fields.iter().map(|text| FIELD_BYTES + text.len()).sum::<usize>()
    }
}

/// The entries of a stream. It may be empty.
#[derive(Debug, Default)]
pub(crate) struct MessageLog {
    entries: VecDeque<LogEntry>,
    last_id: LogId,
    /// Number of entries that were removed.
    removed: usize,
    bytes: usize,
}

impl MessageLog {
    /// Returns the largest id so far, also of removed entries.
    pub(crate) fn last_id(&self) -> LogId {
        self.last_id
    }

    /// Returns the memory that the entries use.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Returns the number of entries.
    pub(crate) fn len(&self) -> usize {
        self.entries.len()
    }

    /// Returns the number of entries so far, the removed ones included.
    pub(crate) fn added(&self) -> usize {
        self.entries.len() + self.removed
    }

    /// Returns the entries with ids in a range.
    pub(crate) fn range(&self, ids: &RangeInclusive<LogId>) -> impl DoubleEndedIterator<Item = &LogEntry> {
        let start = self.entries.partition_point(|entry| entry.id < *ids.start());
        let end = self.entries.partition_point(|entry| entry.id <= *ids.end());
        self.entries.range(start..end.max(start))
    }

    /// Appends an entry, whose id must be larger than all before.
    pub(super) fn push(&mut self, entry: LogEntry) {
        self.last_id = entry.id;
        self.bytes += entry.bytes();
        self.entries.push_back(entry);
    }

    /// Removes the oldest entries above `most`, and returns their number.
    pub(super) fn trim(&mut self, most: usize) -> usize {
        let removed = self.entries.len().saturating_sub(most);
        self.bytes -= self.entries.drain(..removed).map(|entry| entry.bytes()).sum::<usize>();
        self.removed += removed;
        removed
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_range_has_the_entries_between_two_ids_and_trimming_removes_the_oldest() {
        let mut log = MessageLog::default();
        for number in 1..=5 {
            log.push(LogEntry { id: LogId(number, 0), fields: Box::new([Bytes::from_static(b"d")]) });
        }
        let ids = |log: &MessageLog, range| log.range(&range).map(|entry| entry.id.0).collect::<Vec<_>>();
        assert_eq!(ids(&log, LogId(2, 0)..=LogId(4, 0)), [2, 3, 4]);
        assert_eq!(ids(&log, LogId(2, 1)..=LogId(3, 7)), [3]);
        assert_eq!(ids(&log, LogId(4, 0)..=LogId(2, 0)), [0; 0]);
        assert_eq!((log.trim(2), log.trim(2), log.len(), log.added()), (3, 0, 2, 5));
        assert_eq!(ids(&log, LogId::default()..=LogId::MAX), [4, 5]);
        assert_eq!((log.bytes(), log.last_id()), (2 * (ENTRY_BYTES + FIELD_BYTES + 1), LogId(5, 0)));
    }

    #[test]
    fn ids_have_neighbours_except_at_the_ends() {
        assert_eq!(LogId(1, u64::MAX).next(), Some(LogId(2, 0)));
        assert_eq!(LogId(2, 0).previous(), Some(LogId(1, u64::MAX)));
        assert_eq!((LogId::MAX.next(), LogId::default().previous()), (None, None));
    }
}
