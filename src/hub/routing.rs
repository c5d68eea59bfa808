//! Channels and their listeners: join, deliver, leave.

use std::num::NonZeroU32;
use std::rc::Rc;
use std::task::{Context, Poll};

use bytes::Bytes;
use slab::Slab;
use smallvec::SmallVec;

use super::echo::Recent;
use super::hold::{Held, Paused};
use super::outbox::Limits;
use super::replays::Replays;
use super::{Digester, Directory, Listener, Run};
use crate::wire::Topic;

/// All channels and connections of one shard.
pub struct Hub {
    pub(super) topics: Directory<Topic, TopicEntry>,
    pub(super) members: Slab<Member>,
    /// Rooms that may have begun or ceased to be wanted since the last [`Hub::take_requests`].
    dirty: Vec<u32>,
    next_generation: Generation,
    pub(super) limits: Limits,
    pub(super) digester: Digester,
    pub(super) replays: Replays,
}

/// A number by which an answer of the broker is matched with the latest want of a channel.
pub type Generation = NonZeroU32;

/// What the broker has to be told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SubscriptionRequest {
    /// The shard has listeners for the channel.
    Subscribe(Topic, Generation),
    /// Its last one has left.
    Unsubscribe(Topic),
}

/// A connection's place in the hub, from joining until leaving.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MemberId(u32);

/// Why a connection could not join.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NotJoined {
    /// Redis was lost.
    Lost,
    /// Redis refused the subscription of a channel.
    Refused,
    /// More came in meanwhile than may be held.
    Flooded,
}

#[derive(Debug)]
pub(super) struct TopicEntry {
    /// Most channels are one user's, or one session's.
    pub(super) listeners: SmallVec<[MemberSlot; 2]>,
    pub(super) recent: Recent,
    pub(super) paused: Option<Box<Paused>>,
    /// The want that the broker knows of.
    pub(super) told: Option<Generation>,
    pub(super) subscribed: bool,
    /// Whether Redis has refused the want that the broker knows of.
    pub(super) refused: bool,
    dirty: bool,
}

/// Who listens, and which of its seats this is.
#[derive(Debug, Clone, Copy)]
pub(super) struct MemberSlot {
    pub(super) member: u32,
    pub(super) seat: u32,
}

pub(super) struct Member {
    pub(super) seats: Seats,
    pub(super) outlet: Outlet,
}

/// Where a member listens.
pub(super) type Seats = SmallVec<[Seat; 2]>;

/// Where a member listens, and its index among the listeners there.
#[derive(Debug, Clone, Copy)]
pub(super) struct Seat {
    pub(super) topic: u32,
    pub(super) place: u32,
}

impl MemberId {
    pub(super) fn index(self) -> usize {
        self.0 as usize
    }

    pub(super) fn number(self) -> u32 {
        self.0
    }
}

pub(super) enum Outlet {
    Joining(Box<Held>),
    Open(Rc<Listener>),
    /// It only wants the channels to be subscribed.
    Silent,
}

impl TopicEntry {
    /// Tells whether Redis sends the channel, and nothing is held back.
    pub(super) fn is_settled(&self) -> bool {
        self.subscribed && self.paused.is_none()
    }
}

/// What may wait in a topic whose value is being read again, in multiples of an outbox.
const PAUSED_OUTBOXES: usize = 4;

impl Hub {
    /// Returns an empty hub.
    pub fn new(limits: Limits) -> Self {
        Self {
            topics: Directory::default(),
            members: Slab::new(),
            dirty: Vec::new(),
            next_generation: Generation::MIN,
            limits,
            digester: Digester::default(),
            replays: Replays::default(),
        }
    }

    /// Joins the channels, in this order. Until [`Hub::open`], what they bring is held.
    pub fn join<T: Clone + Into<Topic>>(&mut self, topics: &[T]) -> MemberId {
        let id = number(self.members.vacant_key());
        let mut held = Box::<Held>::default();
        let mut seats = Seats::with_capacity(topics.len());
        for (seat, topic) in topics.iter().enumerate() {
            let room_id = self.topic(topic.clone().into());
            let topic = &mut self.topics[room_id];
            if std::mem::take(&mut topic.refused) {
                // It is wanted anew, so that it is tried at once.
                topic.told = None;
                if !std::mem::replace(&mut topic.dirty, true) {
                    self.dirty.push(room_id);
                }
            }
            held.awaited += usize::from(!topic.is_settled());
            seats.push(Seat { topic: room_id, place: number(topic.listeners.len()) });
            topic.listeners.push(MemberSlot { member: id, seat: number(seat) });
        }
        self.members.insert(Member { seats, outlet: Outlet::Joining(held) });
        MemberId(id)
    }

    fn topic(&mut self, name: Topic) -> u32 {
        if let Some(id) = self.topics.find(name.as_ref()) {
            return id;
        }
        let entry = TopicEntry {
            listeners: SmallVec::new(),
            recent: Recent::default(),
            paused: None,
            told: None,
            subscribed: false,
            refused: false,
            dirty: true,
        };
        let id = self.topics.insert(name, entry);
        self.dirty.push(id);
        id
    }

    /// Tells whether Redis has acknowledged all channels of a joining member, and none waits for its value.
    ///
    /// # Errors
    ///
    /// When it cannot join any more.
    pub fn joined(&self, id: MemberId) -> Result<bool, NotJoined> {
        match self.members.get(id.0 as usize).map(|member| &member.outlet) {
            Some(Outlet::Joining(held)) => held.failure.map_or(Ok(held.awaited == 0), Err),
            _ => Err(NotJoined::Lost),
        }
    }

    /// Waits until a member has joined.
    pub fn poll_joined(&mut self, id: MemberId, cx: &Context<'_>) -> Poll<Result<(), NotJoined>> {
        if let joined @ (Err(_) | Ok(true)) = self.joined(id) {
            return Poll::Ready(joined.map(|_| ()));
        }
        if let Some(Member { outlet: Outlet::Joining(held), .. }) = self.members.get_mut(id.0 as usize) {
            held.task = Some(cx.waker().clone());
        }
        Poll::Pending
    }

    /// Notes that a joining member reads its persisted values from now on.
    pub fn begin_reading(&mut self, id: MemberId) {
        if let Some(Member { outlet: Outlet::Joining(held), .. }) = self.members.get_mut(id.0 as usize) {
            held.stale = false;
        }
    }

    /// Tells whether messages were lost since a joining member began to read.
    ///
    /// # Errors
    ///
    /// When it cannot join any more.
    pub fn is_stale(&self, id: MemberId) -> Result<bool, NotJoined> {
        match self.members.get(id.0 as usize).map(|member| &member.outlet) {
            Some(Outlet::Joining(held)) => held.failure.map_or(Ok(held.stale), Err),
            _ => Err(NotJoined::Lost),
        }
    }

    /// Has a member's channels subscribed from now on without listening to them.
    pub fn silence(&mut self, id: MemberId) {
        if let Some(member) = self.members.get_mut(id.0 as usize) {
            member.outlet = Outlet::Silent;
        }
    }

    /// Opens a joined member: queues the persisted values of its channels, then what was held, then goes live.
    ///
    /// A value that is among the held messages is not replayed, nor is an empty one.
    pub fn open(&mut self, id: MemberId, listener: &Rc<Listener>, persisted: &[Option<Bytes>]) {
        let Some(member) = self.members.get_mut(id.0 as usize) else { return };
        let Outlet::Joining(held) = std::mem::replace(&mut member.outlet, Outlet::Open(listener.clone()))
        else {
            return;
        };
        let topics: Vec<_> = member.seats.iter().map(|seat| seat.topic).collect();
        for (seat, (value, topic)) in persisted.iter().zip(topics).enumerate() {
            if let Some(value) = value.as_ref().filter(|value| !value.is_empty() && !held.has(seat, value)) {
                let digest = self.digester.digest(value);
                listener.queue(&self.replays.encode(value, digest, listener.form), &self.limits);
                self.note_replayed(id, topic, digest);
            }
        }
        for (_, run) in held.into_seated_runs() {
            listener.queue(&run, &self.limits);
        }
    }

    /// Tells whether the persisted values of somebody who joins may wait for a socket that does not take them.
    pub fn has_room_for(&self, persisted: &[Option<Bytes>]) -> bool {
        let digest = |value: &[u8]| self.digester.digest(value);
        let values = persisted.iter().flatten();
        let has_room =
            self.limits.memory.has_room(values.map(|value| self.replays.cost(value, digest)).sum());
        if !has_room {
            self.limits.memory.count_refused();
        }
        has_room
    }

    /// Forgets what was remembered only to share it.
    pub fn forget_unused(&mut self) {
        self.limits.memory.forget_last();
        self.replays.forget_unused();
    }

    /// Remembers a replayed value, so that it is known for old when it is read again. Only where everybody has it:
    /// to clients that were there before, it may still have to come.
    pub(super) fn note_replayed(&mut self, id: MemberId, topic: u32, digest: u64) {
        let topic = &mut self.topics[topic];
        let members = &self.members;
        let open = |place: &MemberSlot| matches!(members[place.member as usize].outlet, Outlet::Open(_));
        if !topic.recent.knows(digest) && !topic.listeners.iter().any(|at| at.member != id.0 && open(at)) {
            topic.recent.note(digest);
        }
    }

    /// Takes a member out of all its channels.
    pub fn leave(&mut self, id: MemberId) {
        let Some(member) = self.members.try_remove(id.0 as usize) else { return };
        member.seats.into_iter().for_each(|seat| self.vacate(seat));
        if self.members.is_empty() {
            self.members = Slab::new();
        }
    }

    /// Removes a member from the topic of this seat.
    pub(super) fn vacate(&mut self, seat: Seat) {
        let topic = &mut self.topics[seat.topic];
        topic.listeners.swap_remove(seat.place as usize);
        if let Some(moved) = topic.listeners.get(seat.place as usize) {
            self.members[moved.member as usize].seats[moved.seat as usize].place = seat.place;
        }
        // After a peak its memory goes back.
        if topic.listeners.len() < topic.listeners.capacity() / 4 {
            topic.listeners.shrink_to_fit();
        }
        if topic.listeners.is_empty() && !std::mem::replace(&mut topic.dirty, true) {
            self.dirty.push(seat.topic);
        }
    }

    /// Tells whether Redis sends all channels of a member.
    pub fn is_subscribed(&self, id: MemberId) -> bool {
        let member = self.members.get(id.0 as usize);
        member.is_some_and(|member| member.seats.iter().all(|seat| self.topics[seat.topic].subscribed))
    }

    /// Delivers a run to everybody who listens to the channel.
    pub fn deliver(&mut self, topic: &Topic, run: Run) {
        let Some(id) = self.topics.find(topic.as_ref()) else { return };
        let most = self.limits.outbox_bytes * PAUSED_OUTBOXES;
        let Some(paused) = &mut self.topics[id].paused else { return self.deliver_now(id, &run) };
        paused.bytes += run.bytes.len();
        paused.runs.push(run);
        if paused.bytes > most {
            // The value that is being read has become old: newer messages are more than enough.
            self.resume(id, None);
        }
    }

    pub(super) fn deliver_now(&mut self, id: u32, run: &Run) {
        let topic = &mut self.topics[id];
        let old = (run.messages as usize).saturating_sub(Recent::KEPT);
        run.payloads().skip(old).for_each(|payload| topic.recent.note(self.digester.digest(payload)));
        for place in &topic.listeners {
            match &mut self.members[place.member as usize].outlet {
                Outlet::Open(listener) => listener.deliver(id, run, &self.limits, &self.digester),
                Outlet::Joining(held) => held.push(place.seat as usize, run, &self.limits),
                Outlet::Silent => {}
            }
        }
    }

    pub(super) fn open_listeners(&self, id: u32) -> impl Iterator<Item = &Rc<Listener>> {
        let members = self.topics[id].listeners.iter().map(|place| &self.members[place.member as usize]);
        members.filter_map(|member| match &member.outlet {
            Outlet::Open(listener) => Some(listener),
            Outlet::Joining(_) | Outlet::Silent => None,
        })
    }

    /// Tells those who are joining a channel that it is settled, if it is.
    pub(super) fn let_in(&mut self, id: u32) {
        let topic = &self.topics[id];
        for place in topic.listeners.iter().filter(|_| topic.is_settled()) {
            if let Outlet::Joining(held) = &mut self.members[place.member as usize].outlet {
                held.awaited = held.awaited.saturating_sub(1);
                if held.awaited == 0 {
                    held.wake();
                }
            }
        }
    }

    /// Takes Redis' acknowledgement of a channel.
    pub fn subscribed(&mut self, topic: &Topic, generation: Generation) {
        let Some(id) = self.topics.find(topic.as_ref()) else { return };
        let topic = &mut self.topics[id];
        if topic.told == Some(generation) && !std::mem::replace(&mut topic.subscribed, true) {
            topic.refused = false;
            self.let_in(id);
        }
    }

    /// Returns what the broker has to be told since the last call: wanted against told, whatever happened between.
    pub fn take_requests(&mut self) -> Vec<SubscriptionRequest> {
        let mut requests = Vec::new();
        for id in std::mem::take(&mut self.dirty) {
            let topic = &mut self.topics[id];
            topic.dirty = false;
            if !topic.listeners.is_empty() {
                if topic.told.is_none() {
                    topic.told = Some(self.next_generation);
                    requests.push(SubscriptionRequest::Subscribe(
                        self.topics.name(id).clone(),
                        self.next_generation,
                    ));
                    self.next_generation = self.next_generation.checked_add(1).unwrap_or(Generation::MIN);
                }
                continue;
            }
            let (topic, entry) = self.topics.remove(id);
            if entry.told.is_some() {
                requests.push(SubscriptionRequest::Unsubscribe(topic));
            }
        }
        self.give_back();
        requests
    }

    /// Gives memory back that only a peak has needed.
    fn give_back(&mut self) {
        if self.topics.is_sparse() {
            self.topics.shrink();
            self.members.shrink_to_fit();
        }
    }

    /// Returns the topics of those channels that the member listens to.
    pub fn topics_of<T: Clone + Into<Topic>>(&self, id: MemberId, topics: &[T]) -> Box<[u32]> {
        let Some(member) = self.members.get(id.0 as usize) else { return Box::default() };
        let wanted: SmallVec<[Topic; 4]> = topics.iter().map(|topic| topic.clone().into()).collect();
        let topics = member.seats.iter().map(|seat| seat.topic);
        topics.filter(|topic| wanted.contains(self.topics.name(*topic))).collect()
    }

    /// Notes a publication of a listener to topics of its own, so that it does not come back to it.
    pub fn expect_echo(&self, listener: &Listener, topics: &[u32], payload: &[u8], number: u32) {
        if !topics.is_empty() {
            let digest = self.digester.digest(payload);
            for topic in topics {
                listener.expect_echo(*topic, digest, number);
            }
        }
    }

    /// Returns the open connections whose place in the hub is `part` modulo `parts`.
    pub fn listeners(&self, part: usize, parts: usize) -> impl Iterator<Item = &Rc<Listener>> {
        let members = self.members.iter().filter(move |(id, _)| id % parts == part);
        members.filter_map(|(_, member)| match &member.outlet {
            Outlet::Open(listener) => Some(listener),
            Outlet::Joining(_) | Outlet::Silent => None,
        })
    }

    /// Returns the number of channels that have listeners, or had some until just now.
    pub fn channels(&self) -> usize {
        self.topics.len()
    }
}

/// What stands in the table of docs/performance/memory.md.
#[cfg(test)]
pub(crate) const SIZES: &[(&str, usize)] = &[
    ("Listener", 2 * size_of::<usize>() + size_of::<Listener>()),
    ("Member", size_of::<Member>()),
    ("Seat", size_of::<Seat>()),
    ("MemberSlot", size_of::<MemberSlot>()),
    ("TopicEntry", size_of::<(Topic, TopicEntry)>()),
    super::directory::SIZE,
];

/// Numbers members, topics and seats in 32 bits, which halves what each of them takes.
pub(super) fn number(index: usize) -> u32 {
    u32::try_from(index).expect("four thousand million connections do not fit into one process")
}
