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

/// Most entries of a facility that are read, and most users of whom clients are told.
const MAX_ENTRIES: usize = 10_000;

/// Who is in a facility, over all gateways.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Present {
    /// The users, each once.
    pub users: BTreeSet<Arc<str>>,
    /// The number of anonymous visitors.
    pub anonymous: u64,
}

/// The valid entries of a facility.
#[derive(Debug, Default)]
pub struct PresentEntries {
    /// Who they stand for.
    pub present: Present,
    /// The number of entries: one of each user and gateway.
    pub count: usize,
}

/// The rooms of a shard.
#[derive(Default)]
pub struct PresenceRooms(RefCell<HashMap<Box<str>, Weak<PresenceRoom>>>);

/// A facility whose listeners are told who comes and goes. Dropping it ends its task.
#[derive(Default)]
pub struct PresenceRoom {
    watchers: RefCell<Vec<Weak<Listener>>>,
    /// What its listeners were told; none before it has been read.
    present: RefCell<Option<Rc<Present>>>,
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

    /// Returns who is there, as its listeners were told; none before it is known.
    pub fn present(&self) -> Option<Rc<Present>> {
        self.present.borrow().clone()
    }

    /// Sets who is there.
    pub fn set_present(&self, present: Present) {
        self.present.replace(Some(Rc::new(present)));
    }

    /// Calls `action` with each listener.
    pub fn for_each(&self, action: impl Fn(&Listener)) {
        let watchers = self.watchers.borrow().clone();
        watchers.iter().filter_map(Weak::upgrade).for_each(|listener| action(&listener));
    }
}

impl PresentEntries {
    /// Returns whether there may be more entries than these: nothing follows from one that is missing.
    pub fn are_cut(&self) -> bool {
        self.count >= MAX_ENTRIES
    }
}

impl Present {
    /// Adds a member of a facility's key. Others than gateways may have written it.
    fn add(&mut self, member: &str) {
        // Of a gateway's id, which has neither character.
        let Some(at) = member.find(['/', '#']) else { return };
        let rest = &member[at + 1..];
        if member[at..].starts_with('/') {
            self.users.insert(rest.into());
        } else {
            // The sum of all entries that are read fits.
            self.anonymous += rest.parse::<u32>().map_or(0, u64::from);
        }
    }

    /// Adds who was there before, up to the number of users of whom clients are told.
    pub fn keep(&mut self, before: &Self) {
        // The earlier ones first: whom a cut list names changes with each reading.
        let found = std::mem::replace(&mut self.users, before.users.clone());
        let free = MAX_ENTRIES.saturating_sub(before.users.len());
        self.users.extend(found.difference(&before.users).take(free).cloned());
        self.anonymous = self.anonymous.max(before.anonymous);
    }
}

/// Returns the channel on which gateways say that the entries of a facility have changed. No key has its name.
pub fn presence_channel(namespace: &Namespace, facility: &str) -> Channel {
    Channel::from_redis(&PresenceKeys::facility_channel(namespace, facility))
}

/// Reads the entries of a facility. `None` if Redis is lost or refuses.
pub async fn read_present(store: &Store, namespace: &Namespace, facility: &str) -> Option<PresentEntries> {
    let key = PresenceKeys::facility_key(namespace, facility);
    let (from, count) = (score(now()), MAX_ENTRIES.to_string());
    let arguments = [key.as_str(), &from, "+inf", "LIMIT", "0", &count].map(str::as_bytes);
    let Ok(CommandReply::Other(found)) = store.commands().call("ZRANGEBYSCORE", &arguments).await else {
        return None;
    };
    let mut entries = PresentEntries { count: found.list().len(), ..PresentEntries::default() };
    found.list().iter().filter_map(|member| member.text()).for_each(|member| entries.present.add(member));
    Some(entries)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn members_that_no_gateway_has_written_do_no_harm() {
        let mut present = Present::default();
        let largest = format!("a#{}", u64::MAX);
        for member in
            [&*largest, "b#18446744073709551615", "a#-1", "a#x", "a#", "a", "", "a/", "b/é#/", "a#3", "b#2"]
        {
            present.add(member);
        }
        assert_eq!(present.anonymous, 5);
        assert_eq!(present.users.iter().map(|user| &**user).collect::<Vec<_>>(), ["", "é#/"]);
    }
}
