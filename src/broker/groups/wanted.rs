//! The groups that the shards hear. State only, no I/O.

use std::collections::HashMap;

use foldhash::fast::RandomState;

use crate::hub::Generation;
use crate::wire::Topic;

/// The groups that somebody hears, by name.
#[derive(Debug, Default)]
pub(super) struct WantedGroups(HashMap<Box<str>, Vec<GroupWant>, RandomState>);

/// A shard hears a group in one form of delivery.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct GroupWant {
    pub(super) topic: Topic,
    pub(super) shard: usize,
    /// That of the shard's latest request.
    pub(super) generation: Generation,
}

impl WantedGroups {
    /// Notes that a shard hears the group of a topic.
    pub(super) fn add(&mut self, name: &str, want: GroupWant) {
        // Most groups are known: no name is copied for them.
        let Some(wants) = self.0.get_mut(name) else {
            self.0.insert(name.into(), vec![want]);
            return;
        };
        wants.retain(|own| own.topic != want.topic || own.shard != want.shard);
        wants.push(want);
    }

    /// Notes that a shard does not hear a topic any more. Returns whether no shard hears its group.
    pub(super) fn remove(&mut self, name: &str, topic: &Topic, shard: usize) -> bool {
        let Some(wants) = self.0.get_mut(name) else { return false };
        wants.retain(|own| own.topic != *topic || own.shard != shard);
        let is_last = wants.is_empty();
        if is_last {
            self.0.remove(name);
            if self.0.is_empty() {
                self.0 = HashMap::default();
            }
        }
        is_last
    }

    /// Returns who hears a group.
    pub(super) fn of(&self, name: &str) -> &[GroupWant] {
        self.0.get(name).map_or(&[], Vec::as_slice)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::GroupForm;

    #[test]
    fn a_group_is_wanted_until_its_last_form_and_shard_have_left() {
        let mut wanted = WantedGroups::default();
        let topics = [0, 1].map(|form| Topic::group(GroupForm::new(form), "a"));
        let want = |topic: &Topic, shard, generation| GroupWant {
            topic: topic.clone(),
            shard,
            generation: Generation::new(generation).unwrap(),
        };
        wanted.add("a", want(&topics[0], 0, 1));
        wanted.add("a", want(&topics[1], 0, 2));
        wanted.add("a", want(&topics[0], 1, 1));
        wanted.add("a", want(&topics[0], 0, 3));
        assert_eq!(wanted.of("a").len(), 3, "a later request replaces the earlier one");
        assert!(!wanted.remove("a", &topics[0], 0) && !wanted.remove("a", &topics[1], 0));
        assert!(wanted.remove("a", &topics[0], 1));
        assert!(wanted.of("a").is_empty() && !wanted.remove("a", &topics[0], 1));
    }
}
