//! A connection's part in presence.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

use super::rules::PresenceRules;
use super::table::{EntryKey, PresenceTable};
use crate::settings::PresenceRule;

/// Counts who is present, for the whole process. Cheap to clone; empty where nothing is counted.
#[derive(Clone, Default)]
pub struct Presence(Option<Arc<SharedPresence>>);

/// The table and what wakes the task that writes it. Locked only when a connection begins, ends or changes its user.
pub(super) struct SharedPresence {
    pub(super) rules: PresenceRules,
    table: Mutex<PresenceTable>,
    pub(super) changed: Notify,
}

/// What a connection counts as. Dropping it ends that.
pub struct Attendance {
    shared: Arc<SharedPresence>,
    /// The public id of the connection.
    id: Arc<str>,
    user: Option<Arc<str>>,
    /// Whether it counts as a connection of its user.
    counts_user: bool,
    /// The facility, if its visitors are counted.
    facility: Option<Arc<str>>,
}

impl Presence {
    /// Creates an empty table, if anything is counted. `announces`: users who come and go are announced. `tells`: clients may
    /// be told who is in a facility.
    pub fn new(rules: &[PresenceRule], announces: bool, tells: bool) -> Self {
        let create = |rules| {
            let table = Mutex::default();
            Arc::new(SharedPresence { rules, table, changed: Notify::new() })
        };
        Self(PresenceRules::new(rules, announces, tells).map(create))
    }

    /// Returns whether anything is counted.
    pub fn is_counted(&self) -> bool {
        self.0.is_some()
    }

    /// Makes `attendance` that of a user, or of an anonymous visitor, in a facility. Call this when a connection begins,
    /// and when its user may have changed. `id` returns the public id of the connection.
    pub fn update(
        &self,
        attendance: &mut Option<Box<Attendance>>,
        facility: &str,
        user: Option<&Arc<str>>,
        id: impl FnOnce() -> String,
    ) {
        self.set(attendance, Some(facility), true, user, id);
    }

    /// Makes `attendance` that of the user of a connection that has several facilities.
    pub fn update_user(
        &self,
        attendance: &mut Option<Box<Attendance>>,
        user: Option<&Arc<str>>,
        id: impl FnOnce() -> String,
    ) {
        self.set(attendance, None, true, user, id);
    }

    /// Makes `attendance` that of one of the facilities of such a connection.
    pub fn update_facility(
        &self,
        attendance: &mut Option<Box<Attendance>>,
        facility: &str,
        user: Option<&Arc<str>>,
        id: impl FnOnce() -> String,
    ) {
        self.set(attendance, Some(facility), false, user, id);
    }

    /// Returns the seconds for which the entries of a facility are valid; none if its visitors are not counted.
    pub fn seconds_of(&self, facility: &str) -> Option<u32> {
        self.0.as_ref()?.rules.seconds_of(facility)
    }

    fn set(
        &self,
        attendance: &mut Option<Box<Attendance>>,
        facility: Option<&str>,
        counts_user: bool,
        user: Option<&Arc<str>>,
        id: impl FnOnce() -> String,
    ) {
        let Some(shared) = &self.0 else { return };
        let known = attendance.as_ref();
        if known.is_some_and(|attendance| attendance.user.as_ref() == user) {
            return;
        }
        let counts_facility = facility.and_then(|facility| shared.rules.seconds_of(facility));
        if (user.is_none() || !counts_user) && counts_facility.is_none() {
            *attendance = None;
            return;
        }
        let id = known.map_or_else(|| id().into(), |attendance| attendance.id.clone());
        let facility = facility.filter(|_| counts_facility.is_some()).map(Arc::from);
        let next = Attendance { shared: shared.clone(), id, user: user.cloned(), counts_user, facility };
        let mut table = shared.table();
        for (key, seconds) in next.keys(counts_facility.unwrap_or_default()) {
            table.enter(key, seconds, &next.id);
        }
        drop(table);
        shared.changed.notify_one();
        *attendance = Some(Box::new(next));
    }

    /// Has everything written again: Redis was lost, and may have lost its data.
    pub fn rewrite(&self) {
        if let Some(shared) = &self.0 {
            shared.table().must_rewrite = true;
            shared.changed.notify_one();
        }
    }

    /// Returns the shared state; none if nothing is counted.
    pub(super) fn shared(&self) -> Option<&Arc<SharedPresence>> {
        self.0.as_ref()
    }
}

impl SharedPresence {
    pub(super) fn table(&self) -> MutexGuard<'_, PresenceTable> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Attendance {
    /// Returns the entries that it counts for, with the seconds for which they are valid.
    fn keys(&self, facility_seconds: u32) -> impl Iterator<Item = (EntryKey, u32)> {
        let online = self
            .user
            .clone()
            .filter(|_| self.counts_user)
            .map(|user| (EntryKey::Online(user), self.shared.rules.user_seconds));
        let visitor = self.facility.clone().map(|facility| match self.user.clone() {
            Some(user) => EntryKey::Visitor(facility, user),
            None => EntryKey::Anonymous(facility),
        });
        online.into_iter().chain(visitor.map(|key| (key, facility_seconds)))
    }
}

impl Drop for Attendance {
    fn drop(&mut self) {
        let mut table = self.shared.table();
        for (key, _) in self.keys(0) {
            table.leave(&key, &self.id);
        }
        drop(table);
        self.shared.changed.notify_one();
    }
}
