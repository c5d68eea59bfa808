//! A connection's membership as a guard: dropping it leaves the hub.

use std::cell::RefCell;
use std::future::poll_fn;
use std::rc::Rc;

use bytes::Bytes;
use tokio::sync::Notify;

use super::{Hub, Listener, MemberId, NotJoined, SubscriptionRequest};
use crate::wire::Topic;

/// A hub and the bell that rings when the broker has to be told something.
pub struct SharedHub {
    hub: RefCell<Hub>,
    changed: Notify,
}

/// A connection's membership. Dropping it leaves all its channels.
pub struct Subscription {
    hub: Rc<SharedHub>,
    id: MemberId,
}

/// Channels that are joined beside those of an open connection, to become its own.
pub struct Addition {
    more: Subscription,
    to: MemberId,
}

impl SharedHub {
    /// Puts a hub on a hub.
    pub fn new(hub: Hub) -> Rc<Self> {
        Rc::new(Self { hub: RefCell::new(hub), changed: Notify::new() })
    }

    /// Uses the hub.
    pub fn with<T>(&self, action: impl FnOnce(&mut Hub) -> T) -> T {
        action(&mut self.hub.borrow_mut())
    }

    /// Joins channels; what they bring is held until the subscription is opened.
    pub fn join<T: Clone + Into<Topic>>(self: &Rc<Self>, topics: &[T]) -> Subscription {
        let id = self.hub.borrow_mut().join(topics);
        self.changed.notify_one();
        Subscription { hub: self.clone(), id }
    }

    /// Waits until the broker has to be told something, and returns it. Safe to cancel.
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

impl Subscription {
    /// Waits until Redis has acknowledged all channels, and messages can be relied on. Safe to cancel.
    ///
    /// # Errors
    ///
    /// When Redis is lost or refuses, or when more came in meanwhile than may be held.
    pub async fn joined(&self) -> Result<(), NotJoined> {
        poll_fn(|cx| self.hub.hub.borrow_mut().poll_joined(self.id, cx)).await
    }

    /// Notes that the persisted values are being read from now on.
    pub fn begin_reading(&self) {
        self.hub.hub.borrow_mut().begin_reading(self.id);
    }

    /// Tells whether messages were lost since then, so that what was read may be too old, or too new.
    ///
    /// # Errors
    ///
    /// When the subscription cannot be opened any more.
    pub fn is_stale(&self) -> Result<bool, NotJoined> {
        self.hub.hub.borrow().is_stale(self.id)
    }

    /// Replays the persisted values, then what was held, and goes live.
    pub fn open(&self, listener: &Rc<Listener>, persisted: &[Option<Bytes>]) {
        self.hub.hub.borrow_mut().open(self.id, listener, persisted);
    }

    /// Listens to nothing from now on; its channels stay subscribed.
    pub fn silence(&self) {
        self.hub.hub.borrow_mut().silence(self.id);
    }

    /// Tells whether Redis sends all its channels at the moment.
    pub fn is_subscribed(&self) -> bool {
        self.hub.hub.borrow().is_subscribed(self.id)
    }

    /// Leaves all channels but these. Returns those that it has not.
    pub fn narrow<T: Clone + Into<Topic>>(&self, keep: &[T]) -> Vec<T> {
        let names: Vec<Topic> = keep.iter().map(|topic| topic.clone().into()).collect();
        let mut hub = self.hub.hub.borrow_mut();
        hub.narrow(self.id, &names);
        self.hub.changed.notify_one();
        let has = hub.names_of(self.id);
        let missing = keep.iter().zip(&names).filter(|(_, name)| !has.contains(name));
        missing.map(|(topic, _)| topic.clone()).collect()
    }

    /// Joins more channels beside those that it has, to be merged into it.
    pub fn join_beside<T: Clone + Into<Topic>>(&self, topics: &[T]) -> Addition {
        Addition { more: self.hub.join(topics), to: self.id }
    }

    /// Returns the topics of those channels that are subscribed to.
    pub fn topics_of<T: Clone + Into<Topic>>(&self, topics: &[T]) -> Box<[u32]> {
        self.hub.hub.borrow().topics_of(self.id, topics)
    }

    /// Notes a publication to topics of the subscription's own, so that it does not come back.
    pub fn expect_echo(&self, listener: &Listener, topics: &[u32], payload: &[u8], number: u32) {
        self.hub.hub.borrow().expect_echo(listener, topics, payload, number);
    }
}

impl Addition {
    /// Returns the membership in the new channels, as long as it is one of its own.
    pub fn joining(&self) -> &Subscription {
        &self.more
    }

    /// Joins some of the channels anew, for themselves.
    #[must_use]
    pub fn alone<T: Clone + Into<Topic>>(&self, topics: &[T]) -> Self {
        Self { more: self.more.hub.join(topics), to: self.to }
    }

    /// Replays the persisted values, then what was held, to the connection, whose channels they are from now on.
    pub fn merge(self, listener: &Rc<Listener>, persisted: &[Option<Bytes>]) {
        self.more.hub.hub.borrow_mut().merge(self.more.id, self.to, listener, persisted);
    }
}

impl Drop for Subscription {
    fn drop(&mut self) {
        self.hub.hub.borrow_mut().leave(self.id);
        self.hub.changed.notify_one();
    }
}
