//! The topics of a hub: their members, their subscription state, and the requests that the broker needs.

use std::num::NonZeroU32;
use std::ops::{Index, IndexMut};

use smallvec::SmallVec;

use super::digests::RecentDigests;
use super::directory::{Directory, to_u32};
use super::hold::PausedRuns;
use crate::wire::Topic;

/// Numbers the subscription requests, so that an answer to an earlier request of the same topic is recognised as stale.
pub type Generation = NonZeroU32;

/// A request to the broker.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SubscriptionRequest {
    /// The topic has members.
    Subscribe(Topic, Generation),
    /// The last member has left.
    Unsubscribe(Topic),
}

/// A bit in the numbers of the topics of a layer's hub: its members share their listeners with the hub of the channels, whose
/// topics have other numbers therefore.
const LAYER: u32 = 1 << 31;

/// Returns whether a number is that of a topic in a layer's hub.
pub(super) fn is_of_layer(id: u32) -> bool {
    id & LAYER != 0
}

/// All topics of a hub, by name and by number.
pub(super) struct TopicTable {
    entries: Directory<Topic, TopicEntry>,
    /// A bit of all numbers: [`LAYER`] or none.
    mark: u32,
    /// Topics whose first member has joined or whose last one has left since the last [`TopicTable::take_requests`].
    changed: Vec<u32>,
    next_generation: Generation,
}

#[derive(Debug, Default)]
#[expect(clippy::struct_excessive_bools, reason = "independent of each other, and free: they fill a padding")]
pub(super) struct TopicEntry {
    /// Inline for two: most topics belong to one user or one session.
    pub(super) members: SmallVec<[MemberSlot; 2]>,
    pub(super) recent: RecentDigests,
    pub(super) paused: Option<Box<PausedRuns>>,
    /// The latest request to the broker; none if a new one is due.
    requested: Option<Generation>,
    pub(super) subscribed: bool,
    /// Redis has refused the latest request.
    refused: bool,
    /// The broker subscribes to the topic, or retries it, until it receives an UNSUBSCRIBE.
    is_known: bool,
    is_changed: bool,
}

/// A member of a topic, and the index of the topic among the member's memberships.
#[derive(Debug, Clone, Copy)]
pub(super) struct MemberSlot {
    pub(super) member: u32,
    pub(super) membership: u32,
}

impl TopicEntry {
    /// Returns whether messages are delivered as they arrive: the topic is subscribed and not paused.
    pub(super) fn is_live(&self) -> bool {
        self.subscribed && self.paused.is_none()
    }

    /// Marks the topic as subscribed, if this answers the latest request. Returns whether it was not subscribed before.
    pub(super) fn mark_subscribed(&mut self, generation: Generation) -> bool {
        let is_new = self.requested == Some(generation) && !std::mem::replace(&mut self.subscribed, true);
        self.refused &= !is_new;
        is_new
    }

    /// Marks the topic as refused, if this answers the latest request. Returns whether it does.
    pub(super) fn mark_refused(&mut self, generation: Generation) -> bool {
        let is_latest = self.requested == Some(generation);
        self.refused |= is_latest;
        is_latest
    }
}

impl TopicTable {
    /// Returns the table of a layer's hub.
    pub(super) fn of_layer() -> Self {
        Self { mark: LAYER, ..Self::default() }
    }

    /// Returns whether it is the table of a layer's hub.
    pub(super) fn is_layer(&self) -> bool {
        is_of_layer(self.mark)
    }

    /// Returns the number of a topic, if it has an entry.
    pub(super) fn find(&self, topic: &Topic) -> Option<u32> {
        self.entries.find(topic.as_ref()).map(|number| number | self.mark)
    }

    /// Returns the topic with this number.
    pub(super) fn name(&self, id: u32) -> &Topic {
        self.entries.name(id & !LAYER)
    }

    /// Returns the number of topics: those with members, and those that lost their last one since
    /// [`TopicTable::take_requests`].
    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }

    /// Returns the topics from a number on, with their numbers and the number of their members.
    pub(super) fn iter_from(&self, first: u32) -> impl Iterator<Item = (u32, &Topic, usize)> {
        self.entries.iter_from(first).map(|(number, topic, entry)| (number, topic, entry.members.len()))
    }

    pub(super) fn entries_mut(&mut self) -> impl Iterator<Item = &mut TopicEntry> {
        self.entries.values_mut()
    }

    /// Adds a member to a topic. Returns the number of the topic and the index of the member's slot.
    pub(super) fn add(&mut self, topic: Topic, member: MemberSlot) -> (u32, u32) {
        let found = self.find(&topic);
        let id = found.unwrap_or_else(|| self.entries.insert(topic, TopicEntry::default()) | self.mark);
        let entry = &mut self[id];
        if std::mem::take(&mut entry.refused) {
            // A new request makes the broker retry at once; otherwise it would wait for its back-off.
            entry.requested = None;
        }
        let slot = to_u32(entry.members.len());
        entry.members.push(member);
        if entry.requested.is_none() {
            self.mark_changed(id);
        }
        (id, slot)
    }

    /// Updates the slots of a member, whose memberships have other indices now.
    pub(super) fn set_slots(&mut self, member: u32, slots: impl Iterator<Item = (u32, u32)>) {
        for (membership, (topic, slot)) in (0..).zip(slots) {
            self[topic].members[slot as usize] = MemberSlot { member, membership };
        }
    }

    /// Removes the member in a slot. Returns the member that was moved to this slot, if there is one.
    pub(super) fn remove(&mut self, id: u32, slot: u32) -> Option<MemberSlot> {
        let members = &mut self[id].members;
        members.swap_remove(slot as usize);
        let moved = members.get(slot as usize).copied();
        // Frees the capacity of a peak.
        if members.len() < members.capacity() / 4 {
            members.shrink_to_fit();
        }
        if members.is_empty() {
            self.mark_changed(id);
        }
        moved
    }

    fn mark_changed(&mut self, id: u32) {
        if !std::mem::replace(&mut self[id].is_changed, true) {
            self.changed.push(id);
        }
    }

    /// Returns the requests that the broker needs. Computed from the present members and the latest request of each
    /// changed topic, so a topic that was left and joined again causes none.
    pub(super) fn take_requests(&mut self) -> Vec<SubscriptionRequest> {
        let mut requests = Vec::new();
        for id in std::mem::take(&mut self.changed) {
            let number = id & !LAYER;
            let entry = &mut self.entries[number];
            entry.is_changed = false;
            if entry.members.is_empty() {
                let (topic, entry) = self.entries.remove(number);
                requests.extend(entry.is_known.then_some(SubscriptionRequest::Unsubscribe(topic)));
            } else if entry.requested.is_none() {
                entry.requested = Some(self.next_generation);
                entry.is_known = true;
                let topic = self.entries.name(number).clone();
                requests.push(SubscriptionRequest::Subscribe(topic, self.next_generation));
                self.next_generation = self.next_generation.checked_add(1).unwrap_or(Generation::MIN);
            }
        }
        requests
    }

    /// Frees the capacity of a peak. Returns whether there was one.
    pub(super) fn shrink_after_peak(&mut self) -> bool {
        let is_sparse = self.entries.is_sparse();
        if is_sparse {
            self.entries.shrink();
        }
        is_sparse
    }
}

impl Default for TopicTable {
    fn default() -> Self {
        Self { entries: Directory::default(), mark: 0, changed: Vec::new(), next_generation: Generation::MIN }
    }
}

impl Index<u32> for TopicTable {
    type Output = TopicEntry;

    fn index(&self, id: u32) -> &TopicEntry {
        &self.entries[id & !LAYER]
    }
}

impl IndexMut<u32> for TopicTable {
    fn index_mut(&mut self, id: u32) -> &mut TopicEntry {
        &mut self.entries[id & !LAYER]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::Channel;

    #[test]
    fn a_refused_topic_that_is_joined_and_left_at_once_is_unsubscribed() {
        let (mut topics, topic) = (TopicTable::default(), Topic::from(Channel::from_redis("broadcast:x")));
        let member = MemberSlot { member: 0, membership: 0 };
        let (id, _) = topics.add(topic.clone(), member);
        let requests = topics.take_requests();
        assert_eq!(requests, [SubscriptionRequest::Subscribe(topic.clone(), Generation::MIN)]);
        assert!(topics.entries[id].mark_refused(Generation::MIN));
        let (id, slot) = topics.add(topic.clone(), member);
        topics.remove(id, slot);
        topics.remove(id, 0);
        assert_eq!(topics.take_requests(), [SubscriptionRequest::Unsubscribe(topic)]);
    }
}
