//! The session ids that clients of yunity-sockets have named, and the users behind them.
//!
//! Not here: the key of an id, its reads, and what a client hears (`dialects/socket_io`).

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::fmt;
use std::rc::Rc;
use std::sync::Arc;

use foldhash::fast::RandomState;
use tokio::sync::Notify;

use crate::hub::Subscription;

/// The session ids in use on a shard. A client holds at most one, so clients bound their number.
#[derive(Default)]
pub struct NamedSessions {
    keys: RefCell<HashMap<Box<str>, Rc<NamedSession>, RandomState>>,
    /// Whether Redis publishes the events of their keys.
    pub has_events: Cell<bool>,
    /// Wakes the task that reads all keys: events may have been missed.
    pub missed: Notify,
}

/// A session id that clients have named.
pub struct NamedSession {
    /// The id.
    pub id: Box<str>,
    /// The user, as far as is known.
    pub user: RefCell<Option<Arc<str>>>,
    /// A read is in flight.
    pub is_reading: Cell<bool>,
    /// The key has changed since the read in flight began.
    pub is_stale: Cell<bool>,
    /// The sessions of the clients that have named it, by their slots.
    slots: RefCell<Vec<u32>>,
    /// The subscription to the events of its key.
    watch: Cell<Option<Subscription>>,
}

/// A client's share in a session id; dropping it ends the share.
pub struct NamedSessionHold {
    keys: Rc<NamedSessions>,
    key: Rc<NamedSession>,
    slot: u32,
}

impl NamedSessions {
    /// Adds a client to an id. Returns true if it is the first one.
    pub fn hold(self: &Rc<Self>, id: &str, slot: u32) -> (NamedSessionHold, bool) {
        let mut keys = self.keys.borrow_mut();
        let known = keys.get(id).cloned();
        let is_new = known.is_none();
        let key = known.unwrap_or_else(|| {
            let key = Rc::new(NamedSession {
                id: id.into(),
                user: RefCell::default(),
                is_reading: Cell::default(),
                is_stale: Cell::default(),
                slots: RefCell::default(),
                watch: Cell::default(),
            });
            keys.insert(id.into(), key.clone());
            key
        });
        key.slots.borrow_mut().push(slot);
        (NamedSessionHold { keys: self.clone(), key, slot }, is_new)
    }

    /// Returns an id that clients have named.
    pub fn find(&self, id: &str) -> Option<Rc<NamedSession>> {
        self.keys.borrow().get(id).cloned()
    }

    /// Returns all ids.
    pub fn all(&self) -> Vec<Rc<NamedSession>> {
        self.keys.borrow().values().cloned().collect()
    }
}

impl NamedSession {
    /// Returns whether a client still holds it.
    pub fn is_used(&self) -> bool {
        !self.slots.borrow().is_empty()
    }

    /// Returns the slots of the sessions that hold it.
    pub fn slots(&self) -> Vec<u32> {
        self.slots.borrow().clone()
    }

    /// Keeps the subscription to the events of its key, which arrive as events of the broker.
    pub fn set_watch(&self, watch: Subscription) {
        watch.mute();
        self.watch.set(Some(watch));
    }
}

impl NamedSessionHold {
    /// Returns the id.
    pub fn key(&self) -> &Rc<NamedSession> {
        &self.key
    }
}

/// Omits the id, which is a secret.
impl fmt::Debug for NamedSessionHold {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("NamedSessionHold(***)")
    }
}

impl Drop for NamedSessionHold {
    fn drop(&mut self) {
        let mut slots = self.key.slots.borrow_mut();
        if let Some(index) = slots.iter().position(|slot| *slot == self.slot) {
            slots.swap_remove(index);
        }
        if slots.is_empty() {
            let mut keys = self.keys.keys.borrow_mut();
            if keys.get(&self.key.id).is_some_and(|key| Rc::ptr_eq(key, &self.key)) {
                keys.remove(&self.key.id);
            }
            if keys.is_empty() {
                *keys = HashMap::default();
            }
            self.key.watch.take();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_is_known_as_long_as_a_client_holds_it() {
        let keys = Rc::new(NamedSessions::default());
        let (first, is_first) = keys.hold("a", 1);
        let (second, is_second) = keys.hold("a", 2);
        assert!(is_first && !is_second && Rc::ptr_eq(first.key(), second.key()));
        assert_eq!(keys.find("a").unwrap().slots(), [1, 2]);
        drop(first);
        assert_eq!(keys.find("a").unwrap().slots(), [2]);
        drop(second);
        assert!(keys.find("a").is_none() && keys.all().is_empty());
    }
}
