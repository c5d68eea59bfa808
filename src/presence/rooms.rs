//! Rooms: facilities of this shard whose listeners are told who comes and goes.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeSet, HashMap};
use std::rc::{Rc, Weak};
use std::sync::Arc;

use tokio_util::task::AbortOnDropHandle;

use super::commands::{PresenceKeys, now, score};
use crate::hub::Listener;
use crate::redis::{CommandReply, Store};
use crate::wire::{Channel, Namespace};

/// Most entries of a facility that are read.
const MAX_ENTRIES: usize = 10_000;

/// Who is in a facility, over all gateways.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Present {
    /// The users, each once.
    pub users: BTreeSet<Arc<str>>,
    /// The number of anonymous visitors.
    pub anonymous: u64,
}

/// The rooms of a shard.
#[derive(Default)]
pub struct PresenceRooms(RefCell<HashMap<Box<str>, Weak<PresenceRoom>>>);

/// A facility whose listeners are told who comes and goes. Dropping it ends its task.
#[derive(Default)]
pub struct PresenceRoom {
    watchers: RefCell<Vec<Weak<Listener>>>,
    /// None before it has been read.
    present: RefCell<Option<Present>>,
    watching: Cell<Option<AbortOnDropHandle<()>>>,
}

impl PresenceRooms {
    /// Returns the room of a facility. If there was none, `watch` starts the task that reads it.
    pub fn enter(
        &self,
        facility: &str,
        watch: impl FnOnce(Weak<PresenceRoom>) -> AbortOnDropHandle<()>,
    ) -> Rc<PresenceRoom> {
        let mut rooms = self.0.borrow_mut();
        if let Some(room) = rooms.get(facility).and_then(Weak::upgrade) {
            return room;
        }
        // Rooms that have ended since.
        rooms.retain(|_, room| room.strong_count() > 0);
        let room = Rc::<PresenceRoom>::default();
        room.watching.set(Some(watch(Rc::downgrade(&room))));
        rooms.insert(facility.into(), Rc::downgrade(&room));
        room
    }
}

impl PresenceRoom {
    /// Adds a listener.
    pub fn add(&self, listener: &Rc<Listener>) {
        let mut watchers = self.watchers.borrow_mut();
        watchers.retain(|watcher| watcher.strong_count() > 0);
        watchers.push(Rc::downgrade(listener));
    }

    /// Removes a listener.
    pub fn remove(&self, listener: &Rc<Listener>) {
        let is_other = |watcher: &Weak<Listener>| !std::ptr::eq(watcher.as_ptr(), Rc::as_ptr(listener));
        self.watchers.borrow_mut().retain(is_other);
    }

    /// Returns who is there; none before it is known.
    pub fn present(&self) -> Option<Present> {
        self.present.borrow().clone()
    }

    /// Sets who is there. Returns who was there before, if that was known.
    pub fn replace(&self, present: Present) -> Option<Present> {
        self.present.replace(Some(present))
    }

    /// Calls `action` with each listener.
    pub fn for_each(&self, action: impl Fn(&Listener)) {
        let watchers = self.watchers.borrow().clone();
        watchers.iter().filter_map(Weak::upgrade).for_each(|listener| action(&listener));
    }
}

/// Returns the channel on which gateways say that the entries of a facility have changed. No key has its name.
pub fn presence_channel(namespace: &Namespace, facility: &str) -> Channel {
    Channel::from_redis(&PresenceKeys::facility_channel(namespace, facility))
}

/// Reads who is in a facility. `None` if Redis is lost or refuses.
pub async fn read_present(store: &Store, namespace: &Namespace, facility: &str) -> Option<Present> {
    let key = PresenceKeys::facility_key(namespace, facility);
    let (from, count) = (score(now()), MAX_ENTRIES.to_string());
    let arguments = [key.as_str(), &from, "+inf", "LIMIT", "0", &count].map(str::as_bytes);
    let Ok(CommandReply::Other(found)) = store.commands().call("ZRANGEBYSCORE", &arguments).await else {
        return None;
    };
    let mut present = Present::default();
    for member in found.list().iter().filter_map(|member| member.text()) {
        // Of a gateway's id, which has neither character.
        let Some(at) = member.find(['/', '#']) else { continue };
        let rest = &member[at + 1..];
        if member[at..].starts_with('/') {
            present.users.insert(rest.into());
        } else {
            present.anonymous += rest.parse().unwrap_or(0);
        }
    }
    Some(present)
}
