//! The members of a hub: their topics, and the state from joining to leaving.

use std::rc::Rc;

use smallvec::SmallVec;

use super::hold::PendingJoin;
use super::listener::Listener;
use crate::wire::EntryId;

/// Identifies a member from joining to leaving; afterwards another member may get the same number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MemberId(u32);

pub(super) struct Member {
    pub(super) memberships: Memberships,
    pub(super) state: MemberState,
}

pub(super) enum MemberState {
    Joining(Box<PendingJoin>),
    /// A connection, or a part of one of version 2, whose listener other members have, too.
    Open(Rc<Listener>),
    /// Messages may have been lost: it gets no more of them, and has the last id of each of its topics.
    Suspended(Box<SuspendedPart>),
    /// Keeps its topics subscribed and receives nothing.
    Muted,
}

/// A part of a connection that reads on from the last id of each of its topics.
pub(super) struct SuspendedPart {
    /// It goes on excluding messages of these topics until the part leaves them.
    pub(super) listener: Rc<Listener>,
    pub(super) last_ids: Vec<(u32, Option<EntryId>)>,
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
            MemberState::Joining(_) | MemberState::Suspended(_) | MemberState::Muted => None,
        }
    }

    /// Returns the listener of an open or suspended member, which may exclude messages of its topics.
    pub(super) fn filtering(&self) -> Option<&Rc<Listener>> {
        match &self.state {
            MemberState::Suspended(part) => Some(&part.listener),
            _ => self.listener(),
        }
    }

    /// Returns the listener of an open member that is a connection, and not a part of one.
    pub(super) fn connection(&self) -> Option<&Rc<Listener>> {
        // A connection of version 2 has no topics, and each of its parts has some.
        self.listener().filter(|listener| !listener.form.has_objects() || self.memberships.is_empty())
    }

    /// Returns the join of a joining member.
    pub(super) fn pending(&self) -> Option<&PendingJoin> {
        match &self.state {
            MemberState::Joining(pending) => Some(pending),
            _ => None,
        }
    }

    /// Returns the join of a joining member, mutably.
    pub(super) fn pending_mut(&mut self) -> Option<&mut PendingJoin> {
        match &mut self.state {
            MemberState::Joining(pending) => Some(pending),
            _ => None,
        }
    }
}
