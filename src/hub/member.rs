//! The members of a hub: their topics, and the state from joining to leaving.

use std::rc::Rc;

use smallvec::SmallVec;

use super::hold::PendingJoin;
use super::listener::Listener;

/// Identifies a member from joining to leaving; afterwards another member may get the same number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MemberId(u32);

pub(super) struct Member {
    pub(super) memberships: Memberships,
    pub(super) state: MemberState,
}

pub(super) enum MemberState {
    Joining(Box<PendingJoin>),
    Open(Rc<Listener>),
    /// Keeps its topics subscribed and receives nothing.
    Muted,
}

/// A member's topics, in the order in which it joined them.
pub(super) type Memberships = SmallVec<[Membership; 2]>;

/// A topic of a member, and the index of the member's slot in the topic.
#[derive(Debug, Clone, Copy)]
pub(super) struct Membership {
    pub(super) topic: u32,
    pub(super) slot: u32,
}

impl MemberId {
    pub(super) fn new(number: u32) -> Self {
        Self(number)
    }

    pub(super) fn index(self) -> usize {
        self.0 as usize
    }

    pub(super) fn number(self) -> u32 {
        self.0
    }
}

impl Member {
    /// Returns the listener of an open member.
    pub(super) fn listener(&self) -> Option<&Rc<Listener>> {
        match &self.state {
            MemberState::Open(listener) => Some(listener),
            MemberState::Joining(_) | MemberState::Muted => None,
        }
    }

    /// Returns the join of a joining member.
    pub(super) fn pending(&self) -> Option<&PendingJoin> {
        match &self.state {
            MemberState::Joining(pending) => Some(pending),
            MemberState::Open(_) | MemberState::Muted => None,
        }
    }

    /// Returns the join of a joining member, mutably.
    pub(super) fn pending_mut(&mut self) -> Option<&mut PendingJoin> {
        match &mut self.state {
            MemberState::Joining(pending) => Some(pending),
            MemberState::Open(_) | MemberState::Muted => None,
        }
    }
}
