//! The members of a hub, by number.

use std::ops::{Index, IndexMut};
use std::rc::Rc;
use std::task::{Context, Poll};

use slab::Slab;

use super::directory::to_u32;
use super::hold::{JoinError, PendingJoin};
use super::listener::Listener;
use super::member::{Member, MemberId, MemberState};
use super::topic::TopicEntry;
use crate::wire::EntryId;

/// The members of a hub, by number.
#[derive(Default)]
pub(super) struct Members(Slab<Member>);

impl Members {
    /// Returns the number of the next member.
    pub(super) fn next_number(&self) -> u32 {
        to_u32(self.0.vacant_key())
    }

    /// Adds a member, which gets the next number.
    pub(super) fn insert(&mut self, member: Member) -> MemberId {
        MemberId::new(to_u32(self.0.insert(member)))
    }

    pub(super) fn get(&self, id: MemberId) -> Option<&Member> {
        self.0.get(id.index())
    }

    pub(super) fn get_mut(&mut self, id: MemberId) -> Option<&mut Member> {
        self.0.get_mut(id.index())
    }

    pub(super) fn iter_mut(&mut self) -> impl Iterator<Item = &mut Member> {
        self.0.iter_mut().map(|(_, member)| member)
    }

    /// Returns the join of a joining member.
    ///
    /// # Errors
    ///
    /// When the member cannot join any more.
    pub(super) fn pending(&self, id: MemberId) -> Result<&PendingJoin, JoinError> {
        let pending = self.get(id).and_then(Member::pending).ok_or(JoinError::Lost)?;
        pending.failure.map_or(Ok(pending), Err)
    }

    pub(super) fn pending_mut(&mut self, id: MemberId) -> Option<&mut PendingJoin> {
        self.get_mut(id).and_then(Member::pending_mut)
    }

    /// Waits until all topics of a joining member are subscribed and not paused.
    pub(super) fn poll_joined(&mut self, id: MemberId, cx: &Context<'_>) -> Poll<Result<(), JoinError>> {
        match self.pending(id).map(|pending| pending.topics_left) {
            Ok(0) => return Poll::Ready(Ok(())),
            Ok(_) => {}
            Err(error) => return Poll::Ready(Err(error)),
        }
        if let Some(pending) = self.pending_mut(id) {
            pending.task = Some(cx.waker().clone());
        }
        Poll::Pending
    }

    /// Returns the listeners of the open members.
    pub(super) fn open_listeners(&self) -> impl Iterator<Item = &Rc<Listener>> {
        self.0.iter().filter_map(|(_, member)| member.listener())
    }

    /// Returns the listeners of the open members of a topic.
    pub(super) fn listening<'a>(&'a self, topic: &'a TopicEntry) -> impl Iterator<Item = &'a Rc<Listener>> {
        topic.members.iter().filter_map(|slot| self[slot.member].listener())
    }

    /// Returns the topics of a suspended member, each with its last id.
    pub(super) fn last_ids(&self, id: MemberId) -> Option<impl Iterator<Item = (u32, Option<EntryId>)>> {
        let Member { memberships, state: MemberState::Suspended(part) } = self.get(id)? else { return None };
        let is_member = |topic: u32| memberships.iter().any(|membership| membership.topic == topic);
        Some(part.last_ids.iter().copied().filter(move |(topic, _)| is_member(*topic)))
    }

    /// Records that a joining member starts to read its values.
    pub(super) fn begin_reading(&mut self, id: MemberId) {
        if let Some(pending) = self.pending_mut(id) {
            pending.stale = false;
        }
    }

    /// Keeps a member's topics subscribed, without delivering their messages to it.
    pub(super) fn mute(&mut self, id: MemberId) {
        if let Some(member) = self.get_mut(id) {
            member.state = MemberState::Muted;
        }
    }

    /// Removes a member.
    pub(super) fn remove(&mut self, id: MemberId) -> Option<Member> {
        let removed = self.0.try_remove(id.index());
        if self.0.is_empty() {
            // Frees the capacity of a peak.
            self.0 = Slab::new();
        }
        removed
    }

    /// Frees the capacity behind the last member.
    pub(super) fn shrink_to_fit(&mut self) {
        self.0.shrink_to_fit();
    }

    /// Returns the listeners of connections from a number on, each with its member's number.
    pub(super) fn listeners_from(&self, first: usize) -> impl Iterator<Item = (usize, &Rc<Listener>)> {
        (first..self.0.capacity()).filter_map(|number| Some((number, self.0.get(number)?.connection()?)))
    }
}

impl Index<u32> for Members {
    type Output = Member;

    fn index(&self, number: u32) -> &Member {
        &self.0[number as usize]
    }
}

impl IndexMut<u32> for Members {
    fn index_mut(&mut self, number: u32) -> &mut Member {
        &mut self.0[number as usize]
    }
}
