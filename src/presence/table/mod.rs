//! The entries of this process: what has changed since it was written, and what is due.

use std::collections::{BTreeSet, HashMap, HashSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use slab::Slab;
use tokio::time::Instant;

/// Time for which an entry outlives its last connection: a page that is loaded again comes back within it.
pub(super) const GRACE: Duration = Duration::from_secs(5);

/// Numbers of anonymous visitors of one entry that Redis may have; it forgets further ones by their time.
const MAX_NUMBERS: usize = 16;

/// Time until an entry that could not be removed is tried again.
const RETRY: Duration = Duration::from_secs(1);

/// What an entry stands for.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) enum EntryKey {
    /// A user of the site.
    Online(Arc<str>),
    /// A user in a facility.
    Visitor(Arc<str>, Arc<str>),
    /// The anonymous visitors of a facility.
    Anonymous(Arc<str>),
}

/// An entry of Redis, with the connections of this process that it stands for.
struct Entry {
    key: EntryKey,
    /// Seconds for which it is valid in Redis.
    seconds: u32,
    /// Open connections.
    count: u32,
    /// The ids of a user's open connections.
    ids: HashSet<Arc<str>>,
    /// Those among `ids` that are not in Redis yet.
    added: HashSet<Arc<str>>,
    /// Ids that are still in Redis although their connections have ended.
    removed: Vec<Arc<str>>,
    /// The numbers of anonymous visitors that Redis may have: several after a write whose reply was lost.
    written: Vec<u32>,
    is_queued: bool,
    /// When it is removed: it has no connections.
    leaves_at: Option<Instant>,
    /// Until when it is valid as last written.
    valid_until: Option<Instant>,
    /// Redis may have it.
    was_sent: bool,
}

/// A write of an entry.
#[derive(Debug)]
pub(super) struct EntryWrite {
    pub(super) slot: usize,
    pub(super) key: EntryKey,
    pub(super) seconds: u32,
    pub(super) action: Action,
}

/// What is written.
#[derive(Debug)]
pub(super) enum Action {
    /// The entry is valid.
    Keep {
        added: Vec<Arc<str>>,
        removed: Vec<Arc<str>>,
        /// Written again in whole.
        is_refresh: bool,
        /// It has connections, and it was not valid before: if Redis did not have it either, its user has come.
        is_news: bool,
    },
    /// The entry ends.
    Leave {
        ids: Vec<Arc<str>>,
        /// Redis has it, as far as this process knows.
        is_valid: bool,
    },
    /// The number of anonymous visitors now, and other numbers that Redis may have.
    Count {
        before: Vec<u32>,
        now: u32,
        /// Redis has this number already.
        is_refresh: bool,
    },
}

/// The entries of this process. Its size is bounded by the open connections, and those that ended within the grace.
#[derive(Default)]
pub(super) struct PresenceTable {
    entries: Slab<Entry>,
    slots: HashMap<EntryKey, usize>,
    /// Entries to write, each once.
    changed: VecDeque<usize>,
    /// Entries without connections, each once.
    leaving: BTreeSet<(Instant, usize)>,
    /// Everything has to be written again, before anything else.
    pub(super) must_rewrite: bool,
}

impl PresenceTable {
    /// Adds a connection to an entry.
    pub(super) fn enter(&mut self, key: EntryKey, seconds: u32, id: &Arc<str>) {
        let slot = *self.slots.entry(key).or_insert_with_key(|key| {
            self.entries.insert(Entry {
                key: key.clone(),
                seconds,
                count: 0,
                ids: HashSet::new(),
                added: HashSet::new(),
                removed: Vec::new(),
                written: Vec::new(),
                is_queued: false,
                leaves_at: None,
                valid_until: None,
                was_sent: false,
            })
        });
        let entry = &mut self.entries[slot];
        entry.count += 1;
        if let Some(at) = entry.leaves_at.take() {
            self.leaving.remove(&(at, slot));
        }
        let is_known = match entry.key {
            EntryKey::Online(_) => {
                entry.ids.insert(id.clone());
                entry.added.insert(id.clone());
                false
            }
            EntryKey::Visitor(..) => entry.valid_until.is_some(),
            EntryKey::Anonymous(_) => false,
        };
        if !is_known {
            self.queue(slot);
        }
    }

    /// Removes a connection from an entry.
    pub(super) fn leave(&mut self, key: &EntryKey, id: &Arc<str>) {
        let Some(&slot) = self.slots.get(key) else { return };
        let entry = &mut self.entries[slot];
        entry.count = entry.count.saturating_sub(1);
        if entry.ids.remove(id) && !entry.added.remove(id) {
            entry.removed.push(id.clone());
        }
        match entry.key {
            _ if entry.count == 0 && !entry.was_sent => self.remove(slot),
            EntryKey::Anonymous(_) => self.queue(slot),
            _ if entry.count == 0 => self.leave_at(slot, Instant::now() + GRACE),
            EntryKey::Online(_) => self.queue(slot),
            EntryKey::Visitor(..) => {}
        }
    }

    fn leave_at(&mut self, slot: usize, at: Instant) {
        self.entries[slot].leaves_at = Some(at);
        self.leaving.insert((at, slot));
    }

    fn queue(&mut self, slot: usize) {
        if !std::mem::replace(&mut self.entries[slot].is_queued, true) {
            self.changed.push_back(slot);
        }
    }

    /// Returns when the next entry without connections ends.
    pub(super) fn next_leave(&self) -> Option<Instant> {
        self.leaving.first().map(|(at, _)| *at)
    }

    /// Returns whether an entry has connections.
    pub(super) fn has(&self, key: &EntryKey) -> bool {
        self.slots.get(key).is_some_and(|slot| self.entries[*slot].count > 0)
    }

    /// Returns the number of entries that have changed.
    pub(super) fn changed_count(&self) -> usize {
        self.changed.len()
    }

    /// Takes up to `count` writes of entries that have changed.
    pub(super) fn take_changed(&mut self, count: usize) -> Vec<EntryWrite> {
        let mut writes = Vec::new();
        while writes.len() < count
            && let Some(slot) = self.changed.pop_front()
        {
            // An entry that ended while it was queued is not there any more.
            let Some(entry) = self.entries.get_mut(slot) else { continue };
            entry.is_queued = false;
            writes.extend(entry.take_change(slot));
        }
        writes
    }

    /// Takes up to `count` entries whose grace was over at `now`.
    pub(super) fn take_left(&mut self, count: usize, now: Instant) -> Vec<EntryWrite> {
        let mut writes = Vec::new();
        while writes.len() < count
            && let Some(&(at, slot)) = self.leaving.first()
            && at <= now
        {
            self.leaving.pop_first();
            writes.push(self.entries[slot].leave(slot));
        }
        writes
    }

    /// Takes up to `count` entries of users, whether they have connections or not: the process ends.
    pub(super) fn take_users(&mut self, count: usize) -> Vec<EntryWrite> {
        let is_user = |entry: &Entry| entry.was_sent && matches!(entry.key, EntryKey::Online(_));
        let slots = self.entries.iter().filter(|(_, entry)| is_user(entry)).map(|(slot, _)| slot);
        let slots: Vec<_> = slots.take(count).collect();
        let mut writes = Vec::new();
        for slot in slots {
            let entry = &mut self.entries[slot];
            entry.removed.extend(std::mem::take(&mut entry.ids));
            writes.push(entry.leave(slot));
            self.remove(slot);
        }
        writes
    }

    /// Takes up to `count` entries of facilities: the process ends.
    pub(super) fn take_visitors(&mut self, count: usize) -> Vec<EntryWrite> {
        let is_visitor = |entry: &Entry| entry.was_sent && !matches!(entry.key, EntryKey::Online(_));
        let slots = self.entries.iter().filter(|(_, entry)| is_visitor(entry)).map(|(slot, _)| slot);
        let slots: Vec<_> = slots.take(count).collect();
        let mut writes = Vec::new();
        for slot in slots {
            let entry = &mut self.entries[slot];
            writes.push(match entry.key {
                EntryKey::Anonymous(_) => {
                    let before = entry.written.clone();
                    entry.write(slot, Action::Count { before, now: 0, is_refresh: false })
                }
                _ => entry.leave(slot),
            });
            self.remove(slot);
        }
        writes
    }

    /// Returns writes of entries from `slot` on, up to `count`, and the slot to continue at. With `slack`, entries
    /// are left out that stay valid for longer than two thirds of their time and this.
    pub(super) fn refresh(
        &mut self,
        slot: usize,
        count: usize,
        slack: Option<Duration>,
    ) -> (Vec<EntryWrite>, Option<usize>) {
        let now = Instant::now();
        let mut writes = Vec::new();
        for slot in slot..self.entries.capacity() {
            if writes.len() == count {
                return (writes, Some(slot));
            }
            let Some(entry) = self.entries.get_mut(slot) else { continue };
            let left = entry.valid_until.map(|end| end.saturating_duration_since(now));
            let due = slack.map(|slack| Duration::from_secs(entry.seconds.into()) * 2 / 3 + slack);
            if due.zip(left).is_none_or(|(due, left)| left <= due) {
                writes.extend(entry.refresh(slot));
            }
        }
        (writes, None)
    }

    /// Records that a write has reached Redis.
    pub(super) fn on_written(&mut self, write: &EntryWrite, sent_at: Instant) {
        let Some(entry) = self.entries.get_mut(write.slot) else { return };
        let valid_until = sent_at + Duration::from_secs(write.seconds.into());
        match &write.action {
            // The other ids of a user keep the time of their own writes.
            Action::Keep { is_refresh: false, .. }
                if !entry.ids.is_empty() && entry.valid_until.is_some() => {}
            Action::Keep { .. } => entry.valid_until = Some(valid_until),
            Action::Count { now, .. } => {
                entry.written.clear();
                entry.written.extend((*now > 0).then_some(*now));
                entry.valid_until = Some(valid_until);
                if *now == 0 && entry.count == 0 {
                    self.remove(write.slot);
                }
            }
            Action::Leave { .. } if entry.count == 0 && entry.leaves_at.is_none() => self.remove(write.slot),
            // Somebody has come back meanwhile, so it is new.
            Action::Leave { .. } => {
                entry.valid_until = None;
                entry.added.clone_from(&entry.ids);
                self.queue(write.slot);
            }
        }
    }

    /// Records that Redis refuses a write, and will refuse it again. An entry that is kept stays as it was, so that a user
    /// is announced when a refresh succeeds.
    pub(super) fn on_refused(&mut self, write: &EntryWrite, sent_at: Instant) {
        if !matches!(write.action, Action::Keep { .. }) {
            self.on_written(write, sent_at);
        }
    }

    /// Returns a write whose reply was lost to the table, which repeats it.
    pub(super) fn on_lost(&mut self, write: EntryWrite) {
        let slot = write.slot;
        let Some(entry) = self.entries.get_mut(slot) else { return };
        match write.action {
            Action::Keep { added, removed, .. } => {
                let Entry { ids, added: missing, .. } = &mut *entry;
                missing.extend(added.into_iter().filter(|id| ids.contains(id)));
                entry.removed.extend(removed);
                self.queue(slot);
            }
            Action::Leave { ids, .. } => {
                entry.removed.extend(ids);
                if entry.count == 0 && entry.leaves_at.is_none() {
                    self.leave_at(slot, Instant::now() + RETRY);
                }
            }
            Action::Count { now, .. } => {
                if now > 0 && !entry.written.contains(&now) && entry.written.len() < MAX_NUMBERS {
                    entry.written.push(now);
                }
                self.queue(slot);
            }
        }
    }

    fn remove(&mut self, slot: usize) {
        let entry = self.entries.remove(slot);
        self.slots.remove(&entry.key);
        if let Some(at) = entry.leaves_at {
            self.leaving.remove(&(at, slot));
        }
        if self.entries.is_empty() {
            *self = Self { must_rewrite: self.must_rewrite, ..Self::default() };
        }
    }
}

impl Entry {
    fn write(&mut self, slot: usize, action: Action) -> EntryWrite {
        self.was_sent = true;
        EntryWrite { slot, key: self.key.clone(), seconds: self.seconds, action }
    }

    fn write_count(&mut self, slot: usize) -> EntryWrite {
        let now = self.count;
        let before = self.written.iter().copied().filter(|number| *number != now).collect();
        let is_refresh = self.written == [now] || (now == 0 && self.written.is_empty());
        self.write(slot, Action::Count { before, now, is_refresh })
    }

    fn leave(&mut self, slot: usize) -> EntryWrite {
        self.leaves_at = None;
        let is_valid = !self.is_over();
        let ids = std::mem::take(&mut self.removed);
        self.write(slot, Action::Leave { ids, is_valid })
    }

    /// Returns what has to be written of a change, if anything.
    fn take_change(&mut self, slot: usize) -> Option<EntryWrite> {
        if let EntryKey::Anonymous(_) = self.key {
            let is_new = self.count == 0 || self.written != [self.count];
            return is_new.then(|| self.write_count(slot));
        }
        let is_user = matches!(self.key, EntryKey::Online(_));
        if self.count == 0 || (is_user && self.added.is_empty() && self.removed.is_empty()) {
            return None;
        }
        let added = std::mem::take(&mut self.added).into_iter().collect();
        let removed = std::mem::take(&mut self.removed);
        let is_news = self.is_over();
        Some(self.write(slot, Action::Keep { added, removed, is_refresh: false, is_news }))
    }

    /// Returns a write of the whole entry, unless Redis does not have it and need not.
    fn refresh(&mut self, slot: usize) -> Option<EntryWrite> {
        if let EntryKey::Anonymous(_) = self.key {
            return Some(self.write_count(slot));
        }
        if self.count == 0 {
            // In its grace: its ids stay until it leaves, so that their removal is noticed.
            let is_kept = self.was_sent && self.leaves_at.is_some();
            let kept = Action::Keep {
                added: self.removed.clone(),
                removed: Vec::new(),
                is_refresh: true,
                is_news: false,
            };
            return is_kept.then(|| self.write(slot, kept));
        }
        self.added.clear();
        let action = Action::Keep {
            added: self.ids.iter().cloned().collect(),
            removed: std::mem::take(&mut self.removed),
            is_refresh: true,
            is_news: self.is_over(),
        };
        Some(self.write(slot, action))
    }

    /// Returns whether it is not valid in Redis any more, as far as this process knows.
    fn is_over(&self) -> bool {
        self.valid_until.is_none_or(|end| end <= Instant::now())
    }
}

#[cfg(test)]
mod tests;
