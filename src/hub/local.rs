//! Local topics: their messages need no subscription of their own and have no persisted value. Members enter and leave them
//! at any time, and a message may go to several of them at once.

use std::cell::RefCell;
use std::rc::Rc;

use slab::Slab;
use smallvec::SmallVec;

use super::digests::Digester;
use super::directory::{Directory, to_u32};
use super::listener::Listener;
use super::local_index::ShardTopics;
use super::member::{Membership, Memberships};
use super::outbox::Limits;
use super::run::Run;
use super::topic::MemberSlot;
use crate::wire::Topic;

/// The local topics of a shard, and their members.
pub struct LocalTopics(RefCell<LocalTable>);

/// A listener in local topics. Dropping it leaves all of them.
pub struct LocalMember {
    topics: Rc<LocalTopics>,
    number: u32,
}

/// A member, as the table keeps it.
struct LocalEntry {
    listener: Rc<Listener>,
    memberships: Memberships,
    owner: u32,
}

struct LocalTable {
    /// Inline for two: a room is often that of one user.
    topics: Directory<Topic, SmallVec<[MemberSlot; 2]>>,
    members: Slab<LocalEntry>,
    /// Tells the broker which topics have members.
    index: ShardTopics,
    limits: Limits,
    digester: Digester,
    /// Members that a message has reached, a bit each. Kept, to reuse its memory.
    reached: Vec<u64>,
}

impl LocalTopics {
    /// Creates an empty table.
    pub fn new(limits: Limits, index: ShardTopics) -> Rc<Self> {
        Rc::new(Self(RefCell::new(LocalTable {
            topics: Directory::default(),
            members: Slab::new(),
            index,
            limits,
            digester: Digester::default(),
            reached: Vec::new(),
        })))
    }

    /// Adds a listener, which is in no topic yet. `owner` is a number that the caller finds it with.
    pub fn join(self: &Rc<Self>, listener: &Rc<Listener>, owner: u32) -> LocalMember {
        let entry = LocalEntry { listener: listener.clone(), memberships: Memberships::new(), owner };
        let number = to_u32(self.0.borrow_mut().members.insert(entry));
        LocalMember { topics: self.clone(), number }
    }

    /// Returns a topic with this name, which shares its memory with that of the members, if there are any.
    pub fn share(&self, topic: Topic) -> Topic {
        let table = self.0.borrow();
        let found = table.topics.find(topic.as_ref());
        found.map_or(topic, |found| table.topics.name(found).clone())
    }

    /// Removes all members from a topic.
    pub fn clear(&self, topic: &Topic) {
        let table = &mut *self.0.borrow_mut();
        while let Some(found) = table.topics.find(topic.as_ref())
            && let Some(slot) = table.topics[found].last()
        {
            let member = slot.member;
            table.exit(member, found);
        }
    }

    /// Delivers a run to the members of a topic.
    pub fn deliver(&self, topic: &Topic, run: &Run) {
        let table = self.0.borrow();
        let Some(found) = table.topics.find(topic.as_ref()) else { return };
        run.count(table.topics[found].len());
        table.topics[found].iter().for_each(|slot| table.send(slot.member, run));
    }

    /// Delivers a run to the members of several topics and to single members, once to each, and not to those in `except`
    /// or in the topics `except_topics`.
    pub fn deliver_union(
        &self,
        topics: &[Topic],
        single: &[u32],
        except_topics: &[Topic],
        except: &[u32],
        run: &Run,
    ) {
        let send = |table: &LocalTable, member| table.send(member, run);
        run.count(self.for_each(topics, single, except_topics, except, send));
    }

    /// Delivers a run to one member.
    pub fn deliver_to(&self, member: u32, run: &Run) {
        run.count(1);
        self.0.borrow().send(member, run);
    }

    /// Returns the members that [`Self::deliver_union`] reaches, each with its owner.
    pub fn union(
        &self,
        topics: &[Topic],
        single: &[u32],
        except_topics: &[Topic],
        except: &[u32],
    ) -> Vec<(u32, u32)> {
        let mut union = Vec::new();
        self.for_each(topics, single, except_topics, except, |table, member| {
            union.extend(table.members.get(member as usize).map(|entry| (member, entry.owner)));
        });
        union
    }

    /// Visits the members of a union, each once. Returns how many they are.
    fn for_each(
        &self,
        topics: &[Topic],
        single: &[u32],
        except_topics: &[Topic],
        except: &[u32],
        mut visit: impl FnMut(&LocalTable, u32),
    ) -> usize {
        let table = self.0.borrow();
        let is_single = except.is_empty() && except_topics.is_empty() && single.len() < 2;
        if is_single && table.members_of(topics).next().is_none() {
            // One client by its id: nobody can be reached twice.
            if let [member] = single {
                visit(&table, *member);
            }
            return single.len();
        }
        drop(table);
        let mut reached = {
            let table = &mut *self.0.borrow_mut();
            let words = table.members.capacity().div_ceil(64);
            let mut reached = std::mem::take(&mut table.reached);
            reached.clear();
            reached.resize(words, 0);
            reached
        };
        // Returns whether a member is new, and marks it.
        let mark = |reached: &mut [u64], member: u32| {
            let bit = 1_u64 << (member % 64);
            reached.get_mut(member as usize / 64).is_some_and(|word| {
                let is_new = *word & bit == 0;
                *word |= bit;
                is_new
            })
        };
        let table = self.0.borrow();
        let marked = |reached: &[u64]| reached.iter().map(|word| word.count_ones() as usize).sum::<usize>();
        for member in table.members_of(except_topics).chain(except.iter().copied()) {
            mark(&mut reached, member);
        }
        let has_exceptions = !except.is_empty() || !except_topics.is_empty();
        let excepted = if has_exceptions { marked(&reached) } else { 0 };
        for member in table.members_of(topics).chain(single.iter().copied()) {
            if mark(&mut reached, member) {
                visit(&table, member);
            }
        }
        drop(table);
        let count = marked(&reached) - excepted;
        self.0.borrow_mut().reached = reached;
        count
    }
}

impl LocalMember {
    /// Returns the number that [`LocalTopics::deliver_union`] takes for it.
    pub fn number(&self) -> u32 {
        self.number
    }

    /// Returns whether it is in a topic.
    pub fn is_in(&self, topic: &Topic) -> bool {
        let table = self.topics.0.borrow();
        let entry = table.members.get(self.number as usize);
        table.topics.find(topic.as_ref()).is_some_and(|topic| {
            entry.is_some_and(|entry| entry.memberships.iter().any(|membership| membership.topic == topic))
        })
    }

    /// Enters a topic, unless it is in it. Returns false if it is in `max` topics already.
    pub fn enter(&self, topic: &Topic, max: usize) -> bool {
        self.topics.0.borrow_mut().enter(self.number, topic, max)
    }

    /// Leaves a topic, if it is in it.
    pub fn exit(&self, topic: &Topic) {
        let table = &mut *self.topics.0.borrow_mut();
        if let Some(topic) = table.topics.find(topic.as_ref()) {
            table.exit(self.number, topic);
        }
    }
}

impl Drop for LocalMember {
    fn drop(&mut self) {
        self.topics.0.borrow_mut().leave(self.number);
    }
}

impl LocalTable {
    /// Returns the members of these topics; one that is in several of them is returned as often.
    fn members_of<'a>(&'a self, topics: &'a [Topic]) -> impl Iterator<Item = u32> + 'a {
        let topics = topics.iter().filter_map(|topic| self.topics.find(topic.as_ref()));
        topics.flat_map(|topic| self.topics[topic].iter().map(|slot| slot.member))
    }

    fn send(&self, member: u32, run: &Run) {
        // A listener of these topics does not publish, so the topic's number is not needed to find its echoes.
        if let Some(LocalEntry { listener, .. }) = self.members.get(member as usize) {
            if run.is_volatile && listener.drop_if_queued(run.messages) {
                return;
            }
            listener.deliver(u32::MAX, run, &self.limits, &self.digester);
        }
    }

    fn enter(&mut self, member: u32, topic: &Topic, max: usize) -> bool {
        let Some(LocalEntry { memberships, .. }) = self.members.get_mut(member as usize) else {
            return false;
        };
        let found = self.topics.find(topic.as_ref());
        if found.is_some_and(|topic| memberships.iter().any(|membership| membership.topic == topic)) {
            return true;
        }
        if memberships.len() >= max {
            return false;
        }
        let topic = found.unwrap_or_else(|| {
            self.index.add(topic);
            self.topics.insert(topic.clone(), SmallVec::new())
        });
        let members = &mut self.topics[topic];
        let slot = to_u32(members.len());
        members.push(MemberSlot { member, membership: to_u32(memberships.len()) });
        memberships.push(Membership { topic, slot });
        true
    }

    fn exit(&mut self, member: u32, topic: u32) {
        let Some(LocalEntry { memberships, .. }) = self.members.get_mut(member as usize) else { return };
        let Some(index) = memberships.iter().position(|membership| membership.topic == topic) else { return };
        let membership = memberships.swap_remove(index);
        if let Some(moved) = memberships.get(index) {
            self.topics[moved.topic][moved.slot as usize].membership = to_u32(index);
        }
        self.remove(membership);
    }

    fn leave(&mut self, member: u32) {
        let Some(entry) = self.members.try_remove(member as usize) else { return };
        entry.memberships.into_iter().for_each(|membership| self.remove(membership));
        if self.members.is_empty() {
            self.members = Slab::new();
            self.reached = Vec::new();
        }
        if self.topics.is_sparse() {
            self.topics.shrink();
            self.members.shrink_to_fit();
        }
    }

    /// Removes a member from a topic, and the topic if it was the last one.
    fn remove(&mut self, Membership { topic, slot }: Membership) {
        let members = &mut self.topics[topic];
        members.swap_remove(slot as usize);
        if let Some(moved) = members.get(slot as usize) {
            self.members[moved.member as usize].memberships[moved.membership as usize].slot = slot;
        }
        if members.len() < members.capacity() / 4 {
            members.shrink_to_fit();
        }
        if members.is_empty() {
            let (topic, _) = self.topics.remove(topic);
            self.index.remove(&topic);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hub::LocalIndex;
    use crate::wire::{Form, Mount};

    fn topic(name: &str) -> Topic {
        Topic::room(Mount::default(), "/", name)
    }

    fn run() -> Run {
        Run::of(b"x")
    }

    fn listener() -> Rc<Listener> {
        Rc::new(Listener::parked(Form::Packets, 1, 10))
    }

    #[test]
    fn a_union_reaches_each_member_once() {
        let topics = LocalTopics::new(Limits::default(), ShardTopics::default());
        let listeners = [(); 70].map(|()| listener());
        let members: Vec<_> = listeners.iter().map(|listener| topics.join(listener, 7)).collect();
        for (index, member) in members.iter().enumerate() {
            assert!(member.enter(&topic("a"), 3) && member.enter(&topic("a"), 3));
            assert!(index % 2 == 0 || member.enter(&topic("b"), 3));
        }
        assert!(members[68].enter(&topic("c"), 3));
        let names = [topic("a"), topic("b"), topic("none")];
        topics.deliver_union(&names, &[0, 1, 1_000], &[topic("c")], &[members[69].number()], &run());
        let union = topics.union(&names[1..], &[4, 4, 1], &[topic("c")], &[3]);
        assert!(union.len() == 35 && union.iter().all(|(_, owner)| *owner == 7));
        topics.deliver(&topic("b"), &run());
        topics.deliver_union(&[], &[2], &[], &[], &run());
        let counts: Vec<_> = listeners.iter().map(|listener| listener.counts().0).collect();
        assert_eq!(counts[..4], [1, 2, 2, 2]);
        assert_eq!((counts[67], counts[68], counts[69]), (2, 0, 1));
    }

    #[test]
    fn the_index_names_the_shards_whose_topics_have_members() {
        let index = LocalIndex::new(2);
        let shards = [0, 1].map(|shard| LocalTopics::new(Limits::default(), index.part(shard)));
        assert_eq!(index.shards(&topic("a")), 0);
        let listeners = [listener(), listener()];
        let members = [shards[1].join(&listeners[0], 0), shards[1].join(&listeners[1], 0)];
        assert!(members.iter().all(|member| member.enter(&topic("a"), 3)));
        let expected = index.expect(0, &topic("a"));
        assert_eq!(index.shards(&topic("a")), 0b11);
        drop(expected);
        members[0].exit(&topic("a"));
        assert_eq!(index.shards(&topic("a")), 0b10);
        drop(members);
        assert_eq!(index.shards(&topic("a")), 0);
    }

    #[test]
    fn topics_have_a_bound_and_vanish_with_their_last_member() {
        let topics = LocalTopics::new(Limits::default(), ShardTopics::default());
        let listeners = [listener(), listener(), listener()];
        let members: Vec<_> = listeners.iter().map(|listener| topics.join(listener, 7)).collect();
        for name in ["a", "b", "c"] {
            assert!(members.iter().all(|member| member.enter(&topic(name), 3)));
        }
        assert!(!members[0].enter(&topic("d"), 3));
        members[0].exit(&topic("a"));
        members[0].exit(&topic("a"));
        topics.clear(&topic("b"));
        topics.clear(&topic("none"));
        for name in ["a", "b", "c"] {
            topics.deliver(&topic(name), &run());
        }
        assert_eq!(listeners.each_ref().map(|listener| listener.counts().0), [1, 2, 2]);
        drop(members);
        let table = topics.0.borrow();
        assert_eq!((table.topics.len(), table.members.capacity()), (0, 0));
    }

    #[test]
    fn a_volatile_run_is_dropped_for_members_with_queued_messages() {
        let topics = LocalTopics::new(Limits::default(), ShardTopics::default());
        let (listener, other) = (listener(), listener());
        let members = [topics.join(&listener, 0), topics.join(&other, 0)];
        assert!(members.iter().all(|member| member.enter(&topic("a"), 3)));
        topics.deliver_union(&[topic("a")], &[], &[], &[members[1].number()], &run());
        let volatile = run().with_volatile(true);
        topics.deliver(&topic("a"), &volatile);
        assert_eq!((listener.counts(), other.counts()), ((1, 1), (1, 0)));
        listener.take_queued(usize::MAX);
        topics.deliver(&topic("a"), &volatile);
        assert_eq!((listener.counts(), other.counts()), ((2, 1), (1, 1)));
    }

    /// A member, the topics that it is in, and how many messages it has to get.
    struct Expected {
        listener: Rc<Listener>,
        member: LocalMember,
        names: Vec<usize>,
        messages: u64,
    }

    proptest::proptest! {
        /// Whatever members do, each topic delivers to exactly those that are in it.
        #[test]
        fn members_get_what_is_sent_to_their_topics(
            actions in proptest::collection::vec((0_u8..4, 0_usize..6, 0_usize..4), 0..80)
        ) {
            let topics = LocalTopics::new(Limits::default(), ShardTopics::default());
            let mut members: [Option<Expected>; 6] = [const { None }; 6];
            for (action, index, name) in actions {
                let label = topic(&name.to_string());
                match (action, &mut members[index]) {
                    (0, Some(Expected { member, names, .. })) => {
                        proptest::prop_assert!(member.enter(&label, 10) && member.is_in(&label));
                        if !names.contains(&name) {
                            names.push(name);
                        }
                    }
                    (1, Some(Expected { member, names, .. })) => {
                        member.exit(&label);
                        names.retain(|other| *other != name);
                    }
                    (2, slot) => {
                        let listener = listener();
                        let member = topics.join(&listener, 0);
                        *slot = Some(Expected { listener, member, names: Vec::new(), messages: 0 });
                    }
                    _ => {
                        topics.deliver(&label, &run());
                        for Expected { names, messages, .. } in members.iter_mut().flatten() {
                            *messages += u64::from(names.contains(&name));
                        }
                    }
                }
            }
            for Expected { listener, messages, .. } in members.iter().flatten() {
                proptest::prop_assert_eq!(listener.counts().0, *messages);
            }
        }
    }
}
