//! Topics and their members: join, deliver, leave.

use std::num::NonZeroU32;
use std::rc::Rc;
use std::task::{Context, Poll};

use bytes::Bytes;
use slab::Slab;
use smallvec::SmallVec;

use super::digests::RecentDigests;
use super::hold::{PausedRuns, PendingJoin};
use super::outbox::Limits;
use super::replays::ReplayCache;
use super::{Digester, Directory, Listener, Run};
use crate::wire::Topic;

/// All topics and members of one shard.
pub struct Hub {
    pub(super) topics: Directory<Topic, TopicEntry>,
    pub(super) members: Slab<Member>,
    /// Topics whose first member has joined or whose last one has left since the last [`Hub::take_requests`].
    dirty: Vec<u32>,
    next_generation: Generation,
    pub(super) limits: Limits,
    pub(super) digester: Digester,
    pub(super) replays: ReplayCache,
}

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

/// Identifies a member from joining to leaving; afterwards another member may get the same number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MemberId(u32);

/// Why a member cannot join.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum JoinError {
    /// Redis was lost.
    Lost,
    /// Redis refused the subscription of a channel.
    Refused,
    /// More bytes arrived meanwhile than may be held.
    Overflow,
}

#[derive(Debug)]
pub(super) struct TopicEntry {
    /// Inline for two: most topics belong to one user or one session.
    pub(super) members: SmallVec<[MemberSlot; 2]>,
    pub(super) recent: RecentDigests,
    pub(super) paused: Option<Box<PausedRuns>>,
    /// The latest request that was sent to the broker, unless the topic was unsubscribed since.
    pub(super) requested: Option<Generation>,
    pub(super) subscribed: bool,
    /// Redis has refused the latest request.
    pub(super) refused: bool,
    dirty: bool,
}

/// A member of a topic, and the index of the topic among the member's memberships.
#[derive(Debug, Clone, Copy)]
pub(super) struct MemberSlot {
    pub(super) member: u32,
    pub(super) membership: u32,
}

pub(super) struct Member {
    pub(super) memberships: Memberships,
    pub(super) state: MemberState,
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
    pub(super) fn index(self) -> usize {
        self.0 as usize
    }

    pub(super) fn number(self) -> u32 {
        self.0
    }
}

pub(super) enum MemberState {
    Joining(Box<PendingJoin>),
    Open(Rc<Listener>),
    /// Keeps its topics subscribed and receives nothing.
    Muted,
}

impl TopicEntry {
    /// Returns whether messages are delivered as they arrive: the topic is subscribed and not paused.
    pub(super) fn is_live(&self) -> bool {
        self.subscribed && self.paused.is_none()
    }
}

/// Bound of the messages of a paused topic, in multiples of `outbox_bytes`.
const PAUSED_OUTBOXES: usize = 4;

impl Hub {
    /// Creates an empty hub.
    pub fn new(limits: Limits) -> Self {
        Self {
            topics: Directory::default(),
            members: Slab::new(),
            dirty: Vec::new(),
            next_generation: Generation::MIN,
            limits,
            digester: Digester::default(),
            replays: ReplayCache::default(),
        }
    }

    /// Joins the topics, in this order. Their messages are held until [`Hub::open`].
    pub fn join<T: Clone + Into<Topic>>(&mut self, topics: &[T]) -> MemberId {
        let id = to_u32(self.members.vacant_key());
        let mut pending = Box::<PendingJoin>::default();
        let mut memberships = Memberships::with_capacity(topics.len());
        for (membership, topic) in topics.iter().enumerate() {
            let topic_id = self.topic(topic.clone().into());
            let topic = &mut self.topics[topic_id];
            if std::mem::take(&mut topic.refused) {
                // A new request makes the broker retry at once; otherwise it would wait for its back-off.
                topic.requested = None;
                if !std::mem::replace(&mut topic.dirty, true) {
                    self.dirty.push(topic_id);
                }
            }
            pending.topics_left += usize::from(!topic.is_live());
            memberships.push(Membership { topic: topic_id, slot: to_u32(topic.members.len()) });
            topic.members.push(MemberSlot { member: id, membership: to_u32(membership) });
        }
        self.members.insert(Member { memberships, state: MemberState::Joining(pending) });
        MemberId(id)
    }

    fn topic(&mut self, name: Topic) -> u32 {
        if let Some(id) = self.topics.find(name.as_ref()) {
            return id;
        }
        let entry = TopicEntry {
            members: SmallVec::new(),
            recent: RecentDigests::default(),
            paused: None,
            requested: None,
            subscribed: false,
            refused: false,
            dirty: true,
        };
        let id = self.topics.insert(name, entry);
        self.dirty.push(id);
        id
    }

    /// Returns whether all topics of a joining member are subscribed and not paused.
    ///
    /// # Errors
    ///
    /// When the member cannot join any more.
    pub fn joined(&self, id: MemberId) -> Result<bool, JoinError> {
        match self.members.get(id.index()).map(|member| &member.state) {
            Some(MemberState::Joining(pending)) => pending.failure.map_or(Ok(pending.topics_left == 0), Err),
            _ => Err(JoinError::Lost),
        }
    }

    /// Waits until a member has joined.
    pub fn poll_joined(&mut self, id: MemberId, cx: &Context<'_>) -> Poll<Result<(), JoinError>> {
        if let joined @ (Err(_) | Ok(true)) = self.joined(id) {
            return Poll::Ready(joined.map(|_| ()));
        }
        if let Some(Member { state: MemberState::Joining(pending), .. }) = self.members.get_mut(id.index()) {
            pending.task = Some(cx.waker().clone());
        }
        Poll::Pending
    }

    /// Records that a joining member starts to read its persisted values.
    pub fn begin_reading(&mut self, id: MemberId) {
        if let Some(Member { state: MemberState::Joining(pending), .. }) = self.members.get_mut(id.index()) {
            pending.stale = false;
        }
    }

    /// Returns whether messages were lost since a joining member began to read.
    ///
    /// # Errors
    ///
    /// When the member cannot join any more.
    pub fn is_stale(&self, id: MemberId) -> Result<bool, JoinError> {
        match self.members.get(id.index()).map(|member| &member.state) {
            Some(MemberState::Joining(pending)) => pending.failure.map_or(Ok(pending.stale), Err),
            _ => Err(JoinError::Lost),
        }
    }

    /// Keeps a member's topics subscribed, without delivering their messages to it.
    pub fn mute(&mut self, id: MemberId) {
        if let Some(member) = self.members.get_mut(id.index()) {
            member.state = MemberState::Muted;
        }
    }

    /// Opens a joined member: queues the persisted values of its topics, then the held messages, then goes live.
    ///
    /// Empty values are left out, and so are values that equal a held message.
    pub fn open(&mut self, id: MemberId, listener: &Rc<Listener>, persisted: &[Option<Bytes>]) {
        let Some(member) = self.members.get_mut(id.index()) else { return };
        let MemberState::Joining(pending) =
            std::mem::replace(&mut member.state, MemberState::Open(listener.clone()))
        else {
            return;
        };
        let topics: Vec<_> = member.memberships.iter().map(|membership| membership.topic).collect();
        for (index, (value, topic)) in persisted.iter().zip(topics).enumerate() {
            if let Some(value) = value.as_ref().filter(|value| pending.needs(index, value)) {
                let digest = self.digester.digest(value);
                listener.queue_replayed(&self.replays.encode(value, digest, listener.form), &self.limits);
                self.record_replayed(id, topic, digest);
            }
        }
        for (_, run) in pending.into_runs() {
            listener.queue_replayed(&run, &self.limits);
        }
    }

    /// Returns whether the outboxes of the process have capacity for these values, should the socket accept none of them.
    /// Counts a refusal otherwise.
    pub fn check_replay_capacity(&self, persisted: &[Option<Bytes>]) -> bool {
        let digest = |value: &[u8]| self.digester.digest(value);
        let values = persisted.iter().flatten();
        let bytes = values.map(|value| self.replays.cost(value, digest)).sum();
        let has_capacity = self.limits.memory.has_replay_capacity(bytes);
        if !has_capacity {
            self.limits.memory.count_refused();
        }
        has_capacity
    }

    /// Frees bytes that are kept only so that several outboxes can share them, and that no outbox uses any more.
    pub fn release_unused(&mut self) {
        self.limits.memory.release_last();
        self.replays.evict_unused();
    }

    /// Records the digest of a replayed value, so that the value is not delivered again when it is re-read after a loss.
    ///
    /// Skipped if the topic has other open members: they may not have received this value yet.
    pub(super) fn record_replayed(&mut self, id: MemberId, topic: u32, digest: u64) {
        let topic = &mut self.topics[topic];
        let members = &self.members;
        let is_open = |slot: &MemberSlot| matches!(members[slot.member as usize].state, MemberState::Open(_));
        let has_others = || topic.members.iter().any(|slot| slot.member != id.number() && is_open(slot));
        if !topic.recent.contains(digest) && !has_others() {
            topic.recent.push(digest);
        }
    }

    /// Removes a member from all its topics.
    pub fn leave(&mut self, id: MemberId) {
        let Some(member) = self.members.try_remove(id.index()) else { return };
        member.memberships.into_iter().for_each(|membership| self.remove_membership(membership));
        if self.members.is_empty() {
            self.members = Slab::new();
        }
    }

    /// Removes a member from one topic.
    pub(super) fn remove_membership(&mut self, membership: Membership) {
        let Membership { topic: topic_id, slot } = membership;
        let topic = &mut self.topics[topic_id];
        topic.members.swap_remove(slot as usize);
        if let Some(moved) = topic.members.get(slot as usize) {
            self.members[moved.member as usize].memberships[moved.membership as usize].slot = slot;
        }
        // Frees the capacity of a peak.
        if topic.members.len() < topic.members.capacity() / 4 {
            topic.members.shrink_to_fit();
        }
        if topic.members.is_empty() && !std::mem::replace(&mut topic.dirty, true) {
            self.dirty.push(topic_id);
        }
    }

    /// Returns whether all topics of a member are subscribed.
    pub fn is_subscribed(&self, id: MemberId) -> bool {
        let is_subscribed = |membership: &Membership| self.topics[membership.topic].subscribed;
        self.members.get(id.index()).is_some_and(|member| member.memberships.iter().all(is_subscribed))
    }

    /// Delivers a run to all members of a topic.
    pub fn deliver(&mut self, topic: &Topic, run: Run) {
        let Some(id) = self.topics.find(topic.as_ref()) else { return };
        let max_bytes = self.limits.outbox_bytes * PAUSED_OUTBOXES;
        let Some(paused) = &mut self.topics[id].paused else { return self.deliver_now(id, &run) };
        paused.bytes += run.bytes.len();
        paused.runs.push(run);
        if paused.bytes > max_bytes {
            // The value that is being re-read is older than all these messages, so the members can do without it.
            self.resume(id, None);
        }
    }

    pub(super) fn deliver_now(&mut self, id: u32, run: &Run) {
        let topic = &mut self.topics[id];
        let skipped = (run.messages as usize).saturating_sub(RecentDigests::CAPACITY);
        run.payloads().skip(skipped).for_each(|payload| topic.recent.push(self.digester.digest(payload)));
        for slot in &topic.members {
            match &mut self.members[slot.member as usize].state {
                MemberState::Open(listener) => listener.deliver(id, run, &self.limits, &self.digester),
                MemberState::Joining(pending) => pending.hold(slot.membership as usize, run, &self.limits),
                MemberState::Muted => {}
            }
        }
    }

    pub(super) fn open_listeners(&self, id: u32) -> impl Iterator<Item = &Rc<Listener>> {
        let members = self.topics[id].members.iter().map(|slot| &self.members[slot.member as usize]);
        members.filter_map(|member| match &member.state {
            MemberState::Open(listener) => Some(listener),
            MemberState::Joining(_) | MemberState::Muted => None,
        })
    }

    /// Counts a topic as joined for its joining members, if it is live.
    pub(super) fn complete_joins(&mut self, id: u32) {
        let topic = &self.topics[id];
        for slot in topic.members.iter().filter(|_| topic.is_live()) {
            if let MemberState::Joining(pending) = &mut self.members[slot.member as usize].state {
                pending.topics_left = pending.topics_left.saturating_sub(1);
                if pending.topics_left == 0 {
                    pending.wake();
                }
            }
        }
    }

    /// Handles Redis' acknowledgement of a subscription.
    pub fn on_subscribed(&mut self, topic: &Topic, generation: Generation) {
        let Some(id) = self.topics.find(topic.as_ref()) else { return };
        let topic = &mut self.topics[id];
        if topic.requested == Some(generation) && !std::mem::replace(&mut topic.subscribed, true) {
            topic.refused = false;
            self.complete_joins(id);
        }
    }

    /// Returns the requests that the broker needs. Computed from the present members and the latest request of each
    /// changed topic, so a topic that was left and joined again causes none.
    pub fn take_requests(&mut self) -> Vec<SubscriptionRequest> {
        let mut requests = Vec::new();
        for id in std::mem::take(&mut self.dirty) {
            let topic = &mut self.topics[id];
            topic.dirty = false;
            if !topic.members.is_empty() {
                if topic.requested.is_none() {
                    topic.requested = Some(self.next_generation);
                    requests.push(SubscriptionRequest::Subscribe(
                        self.topics.name(id).clone(),
                        self.next_generation,
                    ));
                    self.next_generation = self.next_generation.checked_add(1).unwrap_or(Generation::MIN);
                }
                continue;
            }
            let (topic, entry) = self.topics.remove(id);
            if entry.requested.is_some() {
                requests.push(SubscriptionRequest::Unsubscribe(topic));
            }
        }
        // Frees the capacity of a peak.
        if self.topics.is_sparse() {
            self.topics.shrink();
            self.members.shrink_to_fit();
        }
        requests
    }

    /// Returns the numbers of those of these topics that the member has joined.
    pub fn topic_ids<T: Clone + Into<Topic>>(&self, id: MemberId, topics: &[T]) -> Box<[u32]> {
        let Some(member) = self.members.get(id.index()) else { return Box::default() };
        let wanted: SmallVec<[Topic; 4]> = topics.iter().map(|topic| topic.clone().into()).collect();
        let ids = member.memberships.iter().map(|membership| membership.topic);
        ids.filter(|id| wanted.contains(self.topics.name(*id))).collect()
    }

    /// Records a publication of a listener to topics that it has joined, so that the listener does not receive it.
    pub fn expect_echo(&self, listener: &Listener, topics: &[u32], payload: &[u8], number: u32) {
        if !topics.is_empty() {
            let digest = self.digester.digest(payload);
            for topic in topics {
                listener.expect_echo(*topic, digest, number);
            }
        }
    }

    /// Returns the listeners of the open members whose number is `part` modulo `parts`.
    pub fn listeners(&self, part: usize, parts: usize) -> impl Iterator<Item = &Rc<Listener>> {
        let members = self.members.iter().filter(move |(id, _)| id % parts == part);
        members.filter_map(|(_, member)| match &member.state {
            MemberState::Open(listener) => Some(listener),
            MemberState::Joining(_) | MemberState::Muted => None,
        })
    }

    /// Returns the number of topics: those with members, and those that lost their last one since
    /// [`Hub::take_requests`].
    pub fn topic_count(&self) -> usize {
        self.topics.len()
    }
}

/// The sizes in the table of docs/performance/memory.md.
#[cfg(test)]
pub(crate) const SIZES: &[(&str, usize)] = &[
    ("Listener", 2 * size_of::<usize>() + size_of::<Listener>()),
    ("Member", size_of::<Member>()),
    ("Membership", size_of::<Membership>()),
    ("MemberSlot", size_of::<MemberSlot>()),
    ("TopicEntry", size_of::<(Topic, TopicEntry)>()),
    super::directory::SIZE,
];

/// Converts an index. Members, topics and slots are numbered in 32 bits, because 64 would double the size of their types.
pub(super) fn to_u32(index: usize) -> u32 {
    u32::try_from(index).expect("a process has fewer than 2^32 connections")
}
