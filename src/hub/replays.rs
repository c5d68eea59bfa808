//! Persisted values on their way to clients that join: encoded once, and shared by all who do not take them at once.

use std::collections::HashMap;

use bytes::Bytes;
use foldhash::fast::RandomState;

use super::Run;
use crate::wire::Form;

/// Values from this size on are shared. What is smaller is quicker copied than found.
const SHARED_BYTES: usize = 4096;

/// Values that are remembered before it is looked whether somebody still has them.
const MOST: usize = 64;

/// The values that somebody has, by digest.
#[derive(Debug, Default)]
pub(super) struct Replays(HashMap<u64, Run, RandomState>);

impl Replays {
    /// Returns a value encoded, and the same memory for the same value, as long as somebody has it.
    pub(super) fn encode(&mut self, value: &Bytes, digest: u64, form: Form) -> Run {
        if value.len() < SHARED_BYTES {
            return Run::of(value);
        }
        if let Some(run) = self.find(value, digest) {
            // Worked out before it is cloned, it is worked out once.
            run.in_form(form);
            return run.clone();
        }
        if self.0.len() >= MOST {
            self.forget_unused();
        }
        let run = Run::of(value);
        run.in_form(form);
        self.0.insert(digest, run.clone());
        run
    }

    /// Returns the bytes that a value would take besides what is there.
    pub(super) fn cost(&self, value: &Bytes, digest: impl Fn(&[u8]) -> u64) -> usize {
        let is_there = value.len() >= SHARED_BYTES && self.find(value, digest(value)).is_some();
        if is_there { 0 } else { value.len() }
    }

    fn find(&self, value: &Bytes, digest: u64) -> Option<&Run> {
        self.0.get(&digest).filter(|run| run.payloads().next().is_some_and(|payload| payload == value))
    }

    /// Forgets what nobody has any more.
    pub(super) fn forget_unused(&mut self) {
        self.0.retain(|_, run| !run.make_unique());
        if self.0.is_empty() {
            self.0 = HashMap::default();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_large_value_is_encoded_once_as_long_as_somebody_has_it() {
        let mut replays = Replays::default();
        let value = |byte| Bytes::from(vec![byte; SHARED_BYTES]);
        let (one, two) =
            (replays.encode(&value(1), 7, Form::Frames), replays.encode(&value(1), 7, Form::Events));
        assert_eq!(one.bytes.as_ptr(), two.bytes.as_ptr());
        assert_eq!(replays.cost(&value(1), |_| 7), 0);
        let three = replays.encode(&value(1), 7, Form::Events);
        let _named = replays.encode(&value(1), 7, Form::NamedEvents);
        assert_eq!(two.in_form(Form::Events).as_ptr(), three.in_form(Form::Events).as_ptr());
        // Another value with the same digest is another value.
        let other = replays.encode(&value(2), 7, Form::Frames);
        assert!(other.payloads().eq([&value(2)[..]]));
        assert_eq!(replays.cost(&value(1), |_| 7), SHARED_BYTES);
        drop(other);
        replays.forget_unused();
        assert!(replays.0.is_empty());
    }
}
