//! The hub as a connection's tasks use it: memberships that end when they are dropped, and the wait for requests.

use std::cell::RefCell;
use std::collections::HashSet;
use std::future::poll_fn;
use std::rc::Rc;

use bytes::Bytes;
use foldhash::fast::RandomState;
use tokio::sync::Notify;

use super::hold::JoinError;
use super::listener::Listener;
use super::member::MemberId;
use super::opening::Replay;
use super::routing::Hub;
use super::topic::SubscriptionRequest;
use crate::wire::{EntryId, Topic};

/// A hub that the tasks of one shard share.
pub struct SharedHub {
    hub: RefCell<Hub>,
    /// Wakes the task that sends requests to the broker.
    changed: Notify,
}

/// A connection's membership. Dropping it leaves all topics.
pub struct Subscription {
    hub: Rc<SharedHub>,
    id: MemberId,
}

/// Further topics of an open connection, while they are being joined. Dropping it leaves them.
pub struct Addition {
    joining: Subscription,
    to: MemberId,
}

impl SharedHub {
    /// Wraps a hub.
    pub fn new(hub: Hub) -> Rc<Self> {
        Rc::new(Self { hub: RefCell::new(hub), changed: Notify::new() })
    }

    /// Uses the hub.
    pub fn with<T>(&self, action: impl FnOnce(&mut Hub) -> T) -> T {
        action(&mut self.hub.borrow_mut())
    }

    /// Joins topics. Their messages are held until the subscription is opened.
    pub fn join<T: Clone + Into<Topic>>(self: &Rc<Self>, topics: &[T]) -> Subscription {
        let id = self.hub.borrow_mut().join(topics);
        self.changed.notify_one();
        Subscription { hub: self.clone(), id }
    }

    /// Waits for requests to the broker, and returns them. Safe to cancel.
    pub async fn requests(&self) -> Vec<SubscriptionRequest> {
        loop {
            let requests = self.hub.borrow_mut().take_requests();
            if !requests.is_empty() {
                return requests;
            }
            self.changed.notified().await;
        }
    }
}

/// Returns topics as a set: a user may be in a thousand groups.
fn set_of<T: Clone + Into<Topic>>(topics: &[T]) -> HashSet<Topic, RandomState> {
    topics.iter().map(|topic| topic.clone().into()).collect()
}

impl Subscription {
    /// Waits until Redis has acknowledged all topics; from then on every message arrives. Safe to cancel.
    ///
    /// # Errors
    ///
    /// When Redis is lost, when it refuses a topic, or when more bytes arrive meanwhile than may be held.
    pub async fn joined(&self) -> Result<(), JoinError> {
        poll_fn(|cx| self.hub.hub.borrow_mut().poll_joined(self.id, cx)).await
    }

    /// Records that the caller starts to read the values.
    pub fn begin_reading(&self) {
        self.hub.hub.borrow_mut().begin_reading(self.id);
    }

    /// Returns whether messages were lost since [`Subscription::begin_reading`]: the values may then be too old or too new.
    ///
    /// # Errors
    ///
    /// When the subscription cannot be opened any more.
    pub fn is_stale(&self) -> Result<bool, JoinError> {
        self.hub.hub.borrow().is_stale(self.id)
    }

    /// Queues the values, then the held messages, and goes live.
    pub fn open(&self, listener: &Rc<Listener>, values: &[Option<Bytes>]) {
        self.hub.hub.borrow_mut().open(self.id, listener, values);
    }

    /// Keeps the topics subscribed, without receiving their messages.
    pub fn mute(&self) {
        self.hub.hub.borrow_mut().mute(self.id);
    }

    /// Returns its place among the members of the hub, which is its own until it is dropped.
    pub fn position(&self) -> usize {
        self.id.index()
    }

    /// Returns the topics that it has joined.
    pub fn topics(&self) -> Vec<Topic> {
        self.hub.hub.borrow().topics(self.id)
    }

    /// Returns whether all its topics are subscribed at the moment.
    pub fn is_subscribed(&self) -> bool {
        self.hub.hub.borrow().is_subscribed(self.id)
    }

    /// Returns whether the messages of all topics that it has joined are delivered as they arrive.
    pub fn is_live(&self) -> bool {
        self.hub.hub.borrow().has_live_topics(self.id)
    }

    /// Leaves all topics but these. Returns those of them that it has not joined.
    pub fn retain_topics<T: Clone + Into<Topic>>(&self, keep: &[T]) -> Vec<T> {
        let wanted = set_of(keep);
        self.hub.hub.borrow_mut().retain_topics(self.id, |topic| wanted.contains(topic));
        self.hub.changed.notify_one();
        self.missing(keep)
    }

    /// Leaves topics.
    pub fn leave_topics<T: Clone + Into<Topic>>(&self, topics: &[T]) {
        let left = set_of(topics);
        if !left.is_empty() {
            self.hub.hub.borrow_mut().retain_topics(self.id, |topic| !left.contains(topic));
            self.hub.changed.notify_one();
        }
    }

    /// Returns those of these topics that it has not joined.
    pub fn missing<T: Clone + Into<Topic>>(&self, topics: &[T]) -> Vec<T> {
        let joined = set_of(&self.hub.hub.borrow().topics(self.id));
        topics.iter().filter(|topic| !joined.contains(&(*topic).clone().into())).cloned().collect()
    }

    /// Delivers what was read, then the held messages, and goes live as a part of the connection of a listener.
    pub fn open_part(&self, listener: &Rc<Listener>, replay: &Replay<'_>) {
        self.hub.hub.borrow_mut().open_part(self.id, listener, replay);
    }

    /// Returns the last id that each topic had when messages may have been lost; none if that has not happened.
    pub fn last_ids(&self) -> Option<Vec<(Topic, Option<EntryId>)>> {
        self.hub.hub.borrow().last_ids(self.id)
    }

    /// Starts to join more topics.
    pub fn join_more<T: Clone + Into<Topic>>(&self, topics: &[T]) -> Addition {
        Addition { joining: self.hub.join(topics), to: self.id }
    }

    /// Returns the numbers of those of these topics that it has joined.
    pub fn topic_ids<T: Clone + Into<Topic>>(&self, topics: &[T]) -> Box<[u32]> {
        self.hub.hub.borrow().topic_ids(self.id, topics)
    }

    /// Excludes the next message with this payload from each of these topics, which it has joined: its listener does not
    /// receive it. Tags never decrease.
    pub fn exclude(&self, listener: &Listener, topics: &[u32], payload: &[u8], tag: u32) {
        self.hub.hub.borrow().exclude(listener, topics, payload, tag);
    }
}

impl Addition {
    /// Returns the membership in the new topics, as long as it is separate.
    pub fn joining(&self) -> &Subscription {
        &self.joining
    }

    /// Starts the join of some of the topics again, separately.
    #[must_use]
    pub fn rejoin<T: Clone + Into<Topic>>(&self, topics: &[T]) -> Self {
        Self { joining: self.joining.hub.join(topics), to: self.to }
    }

    /// Adds the topics to the connection: it gets their values, then the held messages, then goes live in them.
    pub fn merge(self, listener: &Rc<Listener>, values: &[Option<Bytes>]) {
        self.joining.hub.hub.borrow_mut().merge(self.joining.id, self.to, listener, values);
    }
}

impl Drop for Subscription {
    fn drop(&mut self) {
        self.hub.hub.borrow_mut().leave(self.id);
        self.hub.changed.notify_one();
    }
}
