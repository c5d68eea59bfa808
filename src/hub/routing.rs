//! The hub: joins and leaves, delivery, pauses after a loss of messages, and changes of an open member's topics.
//!
//! The *value* of a topic is its last message, if its publisher stored it. The hub reads none: its callers do, and the hub
//! delivers each before newer messages.

use std::rc::Rc;
use std::task::{Context, Poll};

use bytes::Bytes;
use smallvec::SmallVec;

use super::digests::{Digester, RecentDigests};
use super::hold::{JoinError, PendingJoin};
use super::labels::TopicLabels;
use super::listener::Listener;
use super::member::{Member, MemberId, MemberState, Membership, Memberships};
use super::members::Members;
use super::opening::{MemberOpening, Replay};
use super::outbox::Limits;
use super::run::Run;
use super::topic::{Generation, MemberSlot, SubscriptionRequest, TopicTable};
use super::value_cache::ValueCache;
use crate::wire::live::LiveNames;
use crate::wire::{EntryId, Topic};

/// All topics and members of one shard.
#[derive(Default)]
pub struct Hub {
    pub(super) topics: TopicTable,
    members: Members,
    limits: Limits,
    digester: Digester,
    value_cache: ValueCache,
    labels: TopicLabels,
}

/// Bound of the messages of a paused topic, in multiples of `outbox_bytes`.
const PAUSED_OUTBOXES: usize = 4;

impl Hub {
    /// Creates an empty hub.
    pub fn new(limits: Limits) -> Self {
        Self { limits, ..Self::default() }
    }

    /// Sets how messages to listeners of version 2 name their facility and audience.
    #[must_use]
    pub fn with_names(self, names: LiveNames) -> Self {
        Self { labels: TopicLabels::new(names), ..self }
    }

    /// Creates the hub of a layer's groups. Its members share their listeners with another hub; it excludes nothing of them.
    pub fn of_layer(limits: Limits) -> Self {
        Self { topics: TopicTable::of_layer(), ..Self::new(limits) }
    }

    /// Joins the topics, in this order. Their messages are held until [`Hub::open`].
    pub fn join<T: Clone + Into<Topic>>(&mut self, topics: &[T]) -> MemberId {
        let number = self.members.next_number();
        let mut pending = Box::<PendingJoin>::default();
        let mut memberships = Memberships::with_capacity(topics.len());
        for (membership, topic) in (0..).zip(topics) {
            let (id, slot) = self.topics.add(topic.clone().into(), MemberSlot { member: number, membership });
            pending.topics_left += usize::from(!self.topics[id].is_live());
            memberships.push(Membership { topic: id, slot });
        }
        self.members.insert(Member { memberships, state: MemberState::Joining(pending) })
    }

    /// Returns whether all topics of a joining member are subscribed and not paused.
    ///
    /// # Errors
    ///
    /// When the member cannot join any more.
    pub fn joined(&self, id: MemberId) -> Result<bool, JoinError> {
        self.members.pending(id).map(|pending| pending.topics_left == 0)
    }

    /// Waits until a member has joined.
    pub fn poll_joined(&mut self, id: MemberId, cx: &Context<'_>) -> Poll<Result<(), JoinError>> {
        self.members.poll_joined(id, cx)
    }

    /// Records that a joining member starts to read its values.
    pub fn begin_reading(&mut self, id: MemberId) {
        self.members.begin_reading(id);
    }

    /// Returns whether messages were lost since a joining member began to read.
    ///
    /// # Errors
    ///
    /// When the member cannot join any more.
    pub fn is_stale(&self, id: MemberId) -> Result<bool, JoinError> {
        self.members.pending(id).map(|pending| pending.stale)
    }

    /// Keeps a member's topics subscribed, without delivering their messages to it.
    pub fn mute(&mut self, id: MemberId) {
        self.members.mute(id);
    }

    /// Opens a joined member: queues the values of its topics, then the held messages, then goes live. Empty values are left
    /// out, and so are values that equal a held message.
    pub fn open(&mut self, id: MemberId, listener: &Rc<Listener>, values: &[Option<Bytes>]) {
        self.open_part(id, listener, &Replay { values, is_queued: true, ..Replay::default() });
    }

    /// Opens a joined member that is a part of a connection, and delivers what was read for it. It has topics.
    pub fn open_part(&mut self, id: MemberId, listener: &Rc<Listener>, replay: &Replay<'_>) {
        let Some(member) = self.members.get_mut(id) else { return };
        let state = std::mem::replace(&mut member.state, MemberState::Open(listener.clone()));
        let MemberState::Joining(pending) = state else { return };
        let topics: Vec<_> = member.memberships.iter().map(|membership| membership.topic).collect();
        self.deliver_replay(listener, &topics, replay, *pending);
        self.record_values(id, replay.values, topics);
    }

    fn deliver_replay(
        &mut self,
        listener: &Rc<Listener>,
        topics: &[u32],
        replay: &Replay<'_>,
        pending: PendingJoin,
    ) {
        self.labels.enter_all(listener, topics, &self.topics);
        let Self { labels, value_cache, digester, limits, .. } = self;
        MemberOpening { listener, topics, labels, value_cache, digester, limits }.deliver(replay, pending);
    }

    /// Returns whether the outboxes have capacity for all bytes of these values. Counts a refusal otherwise.
    pub fn check_capacity(&self, values: &[Option<Bytes>]) -> bool {
        self.value_cache.check_capacity(values, &self.digester, &self.limits.memory)
    }

    /// Returns whether a payload is one of the last that a topic has delivered.
    pub fn has_delivered(&self, topic: &Topic, bytes: &[u8]) -> bool {
        self.topics.find(topic).is_some_and(|id| self.topics[id].recent.contains(self.digester.digest(bytes)))
    }

    /// Frees bytes that are kept only so that several outboxes can share them, and that no outbox uses any more.
    pub fn release_unused(&mut self) {
        self.limits.memory.release_last();
        self.value_cache.evict_unused();
    }

    /// Records the digests of queued values, so that these are not delivered again when they are re-read after a loss. Skipped
    /// if a topic has other open members: they may not have received its value yet.
    fn record_values(&mut self, id: MemberId, values: &[Option<Bytes>], topics: Vec<u32>) {
        for (value, topic) in values.iter().zip(topics) {
            let Some(value) = value.as_ref().filter(|value| !value.is_empty()) else { continue };
            let (digest, topic) = (self.digester.digest(value), &mut self.topics[topic]);
            let is_other = |slot: &MemberSlot| {
                slot.member != id.number() && self.members[slot.member].listener().is_some()
            };
            if !topic.recent.contains(digest) && !topic.members.iter().any(is_other) {
                topic.recent.push(digest);
            }
        }
    }

    /// Returns whether the messages of all topics of a member are delivered as they arrive.
    pub fn has_live_topics(&self, id: MemberId) -> bool {
        let is_live = |membership: &Membership| self.topics[membership.topic].is_live();
        self.members.get(id).is_some_and(|member| member.memberships.iter().all(is_live))
    }

    /// Removes a member from all its topics.
    pub fn leave(&mut self, id: MemberId) {
        let Some(member) = self.members.remove(id) else { return };
        // A part of a connection leaves its listener behind, with what it excludes.
        let part = member.filtering().filter(|listener| listener.form.has_objects()).cloned();
        let has_labels = part.is_some() && member.listener().is_some();
        for membership in member.memberships {
            if let Some(listener) = &part {
                listener.leave(membership.topic);
            }
            self.remove_membership(membership, has_labels);
        }
    }

    /// Removes a member from one topic.
    fn remove_membership(&mut self, Membership { topic, slot }: Membership, has_label: bool) {
        if has_label {
            self.labels.exit(topic);
        }
        if let Some(moved) = self.topics.remove(topic, slot) {
            self.members[moved.member].memberships[moved.membership as usize].slot = slot;
        }
    }

    /// Returns whether all topics of a member are subscribed.
    pub fn is_subscribed(&self, id: MemberId) -> bool {
        let is_subscribed = |membership: &Membership| self.topics[membership.topic].subscribed;
        self.members.get(id).is_some_and(|member| member.memberships.iter().all(is_subscribed))
    }

    /// Delivers a run to all members of a topic.
    pub fn deliver(&mut self, topic: &Topic, run: Run) {
        let Some(id) = self.topics.find(topic) else { return };
        let max_bytes = self.limits.outbox_bytes * PAUSED_OUTBOXES;
        let Some(paused) = &mut self.topics[id].paused else { return self.deliver_now(id, &run) };
        paused.bytes += run.bytes.len();
        paused.runs.push(run);
        if paused.bytes > max_bytes {
            // The value that is being re-read is older than all these messages, so the members can do without it.
            self.resume(id, None);
        }
    }

    fn deliver_now(&mut self, id: u32, run: &Run) {
        let topic = &mut self.topics[id];
        let skipped = (run.messages as usize).saturating_sub(RecentDigests::CAPACITY);
        run.payloads().skip(skipped).for_each(|payload| topic.recent.push(self.digester.digest(payload)));
        self.labels.on_run(id, run);
        // Not in the loop: it would cost each delivery more than its own count does.
        run.count_of_channel(topic.members.len());
        for slot in &topic.members {
            match &mut self.members[slot.member].state {
                MemberState::Open(listener) => listener.deliver(id, run, &self.limits, &self.digester),
                MemberState::Joining(pending) => pending.hold(slot.membership as usize, run, &self.limits),
                MemberState::Suspended(_) | MemberState::Muted => {}
            }
        }
    }

    /// Handles Redis' acknowledgement of a subscription.
    pub fn on_subscribed(&mut self, topic: &Topic, generation: Generation) {
        if let Some(id) = self.topics.find(topic)
            && self.topics[id].mark_subscribed(generation)
        {
            self.complete_joins(id);
        }
    }

    /// Counts a topic as joined for its joining members, if it is live.
    fn complete_joins(&mut self, id: u32) {
        let topic = &self.topics[id];
        for slot in topic.members.iter().filter(|_| topic.is_live()) {
            if let Some(pending) = self.members[slot.member].pending_mut() {
                pending.topics_left = pending.topics_left.saturating_sub(1);
                if pending.topics_left == 0 {
                    pending.wake();
                }
            }
        }
    }

    /// Handles Redis' refusal of a subscription: its joining members fail. For open members the broker retries after a
    /// back-off, and the next member that joins makes it retry at once.
    pub fn on_refused(&mut self, topic: &Topic, generation: Generation) {
        let Some(id) = self.topics.find(topic) else { return };
        let topic = &mut self.topics[id];
        if !topic.mark_refused(generation) {
            return;
        }
        for slot in &topic.members {
            if let Some(pending) = self.members[slot.member].pending_mut() {
                pending.fail(JoinError::Refused);
            }
        }
        self.resume(id, None);
    }

    /// Pauses all subscribed topics until the value of each has been re-read, so that no older message follows a
    /// newer one. Joining members wait, too, because the value that they have read may be older or newer.
    pub fn pause(&mut self) {
        self.members.open_listeners().for_each(|listener| listener.on_loss(self.topics.is_layer()));
        self.members.iter_mut().for_each(|member| self.labels.suspend(member));
        for topic in self.topics.entries_mut().filter(|topic| topic.subscribed) {
            let was_live = topic.is_live();
            topic.paused.get_or_insert_default();
            for slot in &topic.members {
                if let Some(pending) = self.members[slot.member].pending_mut() {
                    pending.stale = true;
                    pending.topics_left += usize::from(was_live);
                }
            }
        }
    }

    /// Handles the loss of Redis: no topic is subscribed any more, joining members fail, and all topics are paused until
    /// their values have been re-read.
    pub fn on_lost(&mut self) {
        self.pause();
        self.topics.entries_mut().for_each(|topic| topic.subscribed = false);
        for member in self.members.iter_mut() {
            match &mut member.state {
                MemberState::Joining(pending) => pending.fail(JoinError::Lost),
                MemberState::Open(listener) if !self.topics.is_layer() => listener.on_lost(),
                MemberState::Open(_) | MemberState::Suspended(_) | MemberState::Muted => {}
            }
        }
    }

    /// Notes that messages of a layer's topic may have been lost.
    pub fn on_missed(&self, topic: &Topic) {
        let listeners =
            self.topics.find(topic).into_iter().flat_map(|id| self.members.listening(&self.topics[id]));
        listeners.for_each(|listener| listener.on_loss(true));
    }

    /// Pauses a topic that Redis had refused and now accepts, until its value has been re-read.
    pub fn on_regained(&mut self, topic: &Topic) {
        // A subscribed topic is live or already paused.
        if let Some(id) = self.topics.find(topic).filter(|id| !self.topics[*id].subscribed) {
            self.topics[id].paused.get_or_insert_default();
        }
    }

    /// Delivers the re-read value of a topic, if it is new, then the messages of the pause, and goes live.
    pub fn recover(&mut self, topic: &Topic, value: Option<&Bytes>) {
        if let Some(id) = self.topics.find(topic) {
            self.resume(id, value);
        }
    }

    fn resume(&mut self, id: u32, value: Option<&Bytes>) {
        let topic = &mut self.topics[id];
        let Some(paused) = topic.paused.take() else { return };
        if let Some(value) = value.filter(|value| !value.is_empty()) {
            let is_known = topic.recent.contains(self.digester.digest(value)) || paused.contains(value);
            if !is_known {
                self.deliver_value(id, value);
            }
        }
        self.members.listening(&self.topics[id]).for_each(|listener| listener.on_recovered(id));
        if let Some(run) = Run::join(paused.runs) {
            self.deliver_now(id, &run);
        }
        self.complete_joins(id);
    }

    /// Delivers a re-read value to open members. Joining members read the value themselves.
    fn deliver_value(&mut self, id: u32, value: &Bytes) {
        let (digest, run) = (self.digester.digest(value), Run::of(value));
        self.labels.label(id, &run, true);
        self.topics[id].recent.push(digest);
        for listener in self.members.listening(&self.topics[id]) {
            listener.deliver_value(id, &run, digest, &self.limits);
        }
    }

    /// Returns the requests that the broker needs since the last call.
    pub fn take_requests(&mut self) -> Vec<SubscriptionRequest> {
        let requests = self.topics.take_requests();
        if self.topics.shrink_after_peak() {
            self.members.shrink_to_fit();
        }
        requests
    }

    /// Returns the last id that each topic of a suspended member had; none if it is not suspended.
    pub fn last_ids(&self, id: MemberId) -> Option<Vec<(Topic, Option<EntryId>)>> {
        let ids = self.members.last_ids(id)?;
        Some(ids.map(|(topic, last)| (self.topics.name(topic).clone(), last)).collect())
    }

    /// Returns the topics of a member.
    pub fn topics(&self, id: MemberId) -> Vec<Topic> {
        let memberships = self.members.get(id).map_or(&[][..], |member| &member.memberships);
        memberships.iter().map(|membership| self.topics.name(membership.topic).clone()).collect()
    }

    /// Returns the numbers of those of these topics that the member has joined.
    pub fn topic_ids<T: Clone + Into<Topic>>(&self, id: MemberId, topics: &[T]) -> Box<[u32]> {
        let Some(member) = self.members.get(id) else { return Box::default() };
        let wanted = topics.iter().filter_map(|topic| self.topics.find(&topic.clone().into()));
        let mut wanted: SmallVec<[u32; 4]> = wanted.collect();
        wanted.sort_unstable();
        let ids = member.memberships.iter().map(|membership| membership.topic);
        ids.filter(|id| wanted.binary_search(id).is_ok()).collect()
    }

    /// Removes a member from all topics but those that are to be kept.
    pub fn retain_topics(&mut self, id: MemberId, keeps: impl Fn(&Topic) -> bool) {
        let Some(member) = self.members.get_mut(id) else { return };
        let memberships = std::mem::take(&mut member.memberships);
        let has_labels = member.listener().is_some_and(|listener| listener.form.has_objects());
        let (kept, left): (Memberships, Memberships) =
            memberships.into_iter().partition(|membership| keeps(self.topics.name(membership.topic)));
        for membership in left {
            if let Some(listener) = self.members.get(id).and_then(Member::filtering) {
                listener.leave(membership.topic);
            }
            self.remove_membership(membership, has_labels);
        }
        self.set_memberships(id, kept);
    }

    /// Moves the topics of a joined member to an open one, and removes the former. The listener of the open member gets
    /// the values, then the held messages, then goes live in these topics.
    pub fn merge(
        &mut self,
        from: MemberId,
        into: MemberId,
        listener: &Rc<Listener>,
        values: &[Option<Bytes>],
    ) {
        // If the connection has ended meanwhile, another member may have its number.
        let current = self.members.get(into).and_then(Member::listener);
        if !current.is_some_and(|current| Rc::ptr_eq(current, listener)) {
            return;
        }
        let Some(member) = self.members.remove(from) else { return };
        let MemberState::Joining(pending) = member.state else { return };
        let topics: Vec<_> = member.memberships.iter().map(|membership| membership.topic).collect();
        self.deliver_replay(listener, &topics, &Replay { values, ..Replay::default() }, *pending);
        let own = self.members.get(into).map(|member| member.memberships.clone()).unwrap_or_default();
        self.set_memberships(into, own.into_iter().chain(member.memberships).collect());
        self.record_values(into, values, topics);
        // A connection of version 2 may wait for these topics before it tells of a gap.
        listener.wake();
    }

    /// Sets the memberships of a member, and updates its slots in their topics.
    fn set_memberships(&mut self, id: MemberId, memberships: Memberships) {
        self.topics.set_slots(id.number(), memberships.iter().map(|known| (known.topic, known.slot)));
        self.members[id.number()].memberships = memberships;
    }

    /// Excludes the next message with this payload from each of these topics of a listener, under a tag of the caller. Tags
    /// never decrease.
    pub fn exclude(&self, listener: &Listener, topics: &[u32], payload: &[u8], tag: u32) {
        if !topics.is_empty() {
            let digest = self.digester.digest(payload);
            for topic in topics {
                listener.exclude(*topic, digest, tag);
            }
        }
    }

    /// Returns the listeners of connections from a number on, each with its member's number.
    pub fn listeners_from(&self, first: usize) -> impl Iterator<Item = (usize, &Rc<Listener>)> {
        self.members.listeners_from(first)
    }

    /// Returns the number of members of a topic.
    pub fn member_count(&self, topic: &Topic) -> usize {
        self.topics.find(topic).map_or(0, |id| self.topics[id].members.len())
    }
}
