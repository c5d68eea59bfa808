//! Changes the topics of an open member: some are left at once; others are joined by a second member, which is then merged
//! into the first, so that both deliver to the same connection.

use std::rc::Rc;

use bytes::Bytes;

use super::Listener;
use super::routing::{Hub, MemberId, MemberSlot, MemberState, Memberships};
use crate::wire::Topic;

impl Hub {
    /// Returns the topics of a member.
    pub fn topics(&self, id: MemberId) -> Vec<Topic> {
        let memberships = self.members.get(id.index()).map_or(&[][..], |member| &member.memberships);
        memberships.iter().map(|membership| self.topics.name(membership.topic).clone()).collect()
    }

    /// Removes a member from all topics but these.
    pub fn retain_topics(&mut self, id: MemberId, keep: &[Topic]) {
        let Some(member) = self.members.get_mut(id.index()) else { return };
        let memberships = std::mem::take(&mut member.memberships);
        let (kept, left): (Memberships, Memberships) =
            memberships.into_iter().partition(|membership| keep.contains(self.topics.name(membership.topic)));
        for membership in left {
            if let MemberState::Open(listener) = &self.members[id.index()].state {
                listener.leave(membership.topic);
            }
            self.remove_membership(membership);
        }
        self.set_memberships(id, kept);
    }

    /// Moves the topics of a joined member to an open one, and removes the former. The listener of the open member gets
    /// the persisted values, then the held messages, then goes live in these topics.
    pub fn merge(
        &mut self,
        from: MemberId,
        into: MemberId,
        listener: &Rc<Listener>,
        persisted: &[Option<Bytes>],
    ) {
        // If the connection has ended meanwhile, another member may have its number.
        let is_its = |state: &MemberState| matches!(state, MemberState::Open(of) if Rc::ptr_eq(of, listener));
        if !self.members.get(into.index()).is_some_and(|member| is_its(&member.state)) {
            return;
        }
        let Some(member) = self.members.try_remove(from.index()) else { return };
        let MemberState::Joining(pending) = member.state else { return };
        let topics: Vec<_> = member.memberships.iter().map(|membership| membership.topic).collect();
        for (index, (value, topic)) in persisted.iter().zip(&topics).enumerate() {
            if let Some(value) = value.as_ref().filter(|value| pending.needs(index, value)) {
                let digest = self.digester.digest(value);
                let run = self.replays.encode(value, digest, listener.form);
                listener.deliver_value(*topic, &run, digest, &self.limits);
            }
        }
        for (index, run) in pending.into_runs() {
            listener.deliver(topics[index], &run, &self.limits, &self.digester);
        }
        let own = std::mem::take(&mut self.members[into.index()].memberships);
        self.set_memberships(into, own.into_iter().chain(member.memberships).collect());
        for (value, topic) in persisted.iter().zip(topics) {
            if let Some(value) = value.as_ref().filter(|value| !value.is_empty()) {
                self.record_replayed(into, topic, self.digester.digest(value));
            }
        }
    }

    /// Sets the memberships of a member, and updates its slots in their topics.
    fn set_memberships(&mut self, id: MemberId, memberships: Memberships) {
        for (index, membership) in (0..).zip(&memberships) {
            self.topics[membership.topic].members[membership.slot as usize] =
                MemberSlot { member: id.number(), membership: index };
        }
        self.members[id.index()].memberships = memberships;
    }
}
