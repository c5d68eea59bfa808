//! The handshakes of clients whose mount lists them.

use std::cell::RefCell;
use std::collections::HashMap;

use foldhash::fast::RandomState;

use crate::wire::HandshakeRecord;

/// The records of a shard's sessions, by their slots. Only sessions that are listed have one.
#[derive(Default)]
pub(super) struct HandshakeRecords(RefCell<HashMap<u32, HandshakeRecord, RandomState>>);

impl HandshakeRecords {
    /// Adds the record of a session.
    pub(super) fn add(&self, slot: u32, record: HandshakeRecord) {
        self.0.borrow_mut().insert(slot, record);
    }

    /// Returns the record of a session.
    pub(super) fn get(&self, slot: u32) -> Option<HandshakeRecord> {
        self.0.borrow().get(&slot).cloned()
    }

    /// Removes the record of a session, if it has one.
    pub(super) fn remove(&self, slot: u32) {
        let mut records = self.0.borrow_mut();
        if records.remove(&slot).is_some() && records.is_empty() {
            *records = HashMap::default();
        }
    }

    /// Removes all records.
    pub(super) fn clear(&self) {
        self.0.take();
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::wire::HandshakeParts;

    #[test]
    fn a_record_is_kept_until_it_is_removed() {
        let parts = HandshakeParts {
            headers: Vec::new(),
            path: "/socket/",
            query: None,
            address: None,
            time: Duration::ZERO,
        };
        let record = HandshakeRecord::new(&parts, |_| false);
        let records = HandshakeRecords::default();
        records.add(7, record.clone());
        assert_eq!((records.get(7), records.get(8)), (Some(record), None));
        records.remove(8);
        assert!(records.get(7).is_some());
        records.remove(7);
        assert_eq!((records.get(7), records.0.borrow().capacity()), (None, 0));
    }
}
