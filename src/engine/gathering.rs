//! The reports of a bridge's clients, which are gathered for some seconds after Django has asked for them.

use std::cell::{Cell, RefCell};

/// Most bytes of reports that wait to be written; further ones are dropped. Clients write them.
const MAX_WAITING_BYTES: usize = 256 * 1024;

/// The gathering of a shard. Times are in milliseconds of the table's clock.
#[derive(Debug, Default)]
pub struct Gathering {
    /// Its number; 0 before the first one.
    number: Cell<u32>,
    end: Cell<u64>,
    waiting: RefCell<String>,
}

impl Gathering {
    /// Begins a gathering that ends at `end`. Reports to an earlier one are dropped.
    pub fn begin(&self, end: u64) {
        self.number.set(self.number.get().wrapping_add(1).max(1));
        self.end.set(end);
        self.waiting.take();
    }

    /// Returns the number of the present gathering; `None` if there is none.
    pub fn number(&self, now: u64) -> Option<u32> {
        (now < self.end.get()).then_some(self.number.get())
    }

    /// Adds a report to those that wait. Returns false if they are too many.
    pub fn add(&self, report: &str) -> bool {
        let mut waiting = self.waiting.borrow_mut();
        if waiting.len() + report.len() >= MAX_WAITING_BYTES {
            return false;
        }
        if !waiting.is_empty() {
            waiting.push(',');
        }
        waiting.push_str(report);
        true
    }

    /// Returns whether reports wait.
    pub fn has_waiting(&self) -> bool {
        !self.waiting.borrow().is_empty()
    }

    /// Takes the reports that wait, separated by commas.
    pub fn take(&self) -> String {
        self.waiting.take()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reports_wait_within_a_gathering_and_a_limit() {
        let gathering = Gathering::default();
        assert_eq!(gathering.number(0), None);
        gathering.begin(10);
        assert_eq!((gathering.number(9), gathering.number(10)), (Some(1), None));
        assert!(gathering.add("1") && gathering.add("2"));
        assert_eq!(gathering.take(), "1,2");
        assert!(!gathering.has_waiting() && !gathering.add(&"x".repeat(MAX_WAITING_BYTES)));
        gathering.begin(20);
        assert_eq!(gathering.number(10), Some(2));
    }
}
