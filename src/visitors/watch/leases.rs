//! The leases of a shard: their revalidation, and its consequences for connections.
//!
//! A lease is revalidated when it expires, when a key event or an invalidation of the Django package reports a change, and
//! periodically, because neither source is guaranteed to notify us. A connection whose visitor has another user or other
//! groups stays open with other channels; a connection whose session has ended is closed.

use std::cell::{Cell, RefCell};
use std::collections::{HashMap, HashSet};
use std::future::poll_fn;
use std::rc::{Rc, Weak};
use std::task::Poll;
use std::time::Duration;

use tokio::time::{Instant, sleep};
use tokio_util::time::DelayQueue;
use tracing::debug;

use super::event_log::{EventLog, InFlight, LoggedEvent};
use super::hold::LeaseHold;
use super::lease::{Lease, LeaseEnd, LeaseVerdict};
use super::table::LeaseTable;
use crate::hub::{Listener, SharedHub, Subscription};
use crate::reloadable::Reloadable;
use crate::visitors::{AuthSource, Identifier, IdentifyError, Visitor};
use crate::wire::{Channel, Invalidation, KeyEvent, SessionDigest, channel_of, key_of};

/// Shortest time between two reads of one session, which bounds the load that events can cause.
const MIN_READ_INTERVAL: Duration = Duration::from_secs(1);

/// Time until a failed read is retried.
const RETRY: Duration = Duration::from_secs(1);

/// Time until a failed call of the callback is retried for open connections.
const CALLBACK_RETRY: Duration = Duration::from_secs(5);

/// Invalidations are collected for this time, so that the leases are scanned once for all of them.
const INVALIDATION_WINDOW: Duration = Duration::from_millis(100);

/// Time over which all sessions are read again after events may have been missed.
const SPREAD: Duration = Duration::from_secs(1);

/// The same for visitors that the callback identifies.
const CALLBACK_SPREAD: Duration = Duration::from_secs(20);

/// A subscription to the keyspace events of a visitor's session.
pub struct Watch {
    /// The subscription to the keyspace channel.
    pub subscription: Subscription,
    /// Whether another connection was already subscribed while the session was read.
    pub was_watched: bool,
}

/// The leases of all open connections of a shard.
pub struct Leases {
    identifier: Rc<Reloadable<Identifier>>,
    /// The hub whose broker receives keyspace events.
    hub: Rc<SharedHub>,
    database: u8,
    lease_table: RefCell<LeaseTable>,
    timers: RefCell<DelayQueue<Weak<Lease>>>,
    /// Whether Redis publishes keyspace events.
    events: Cell<bool>,
    /// Invalidations that have not been applied yet.
    pending_invalidations: RefCell<PendingInvalidations>,
    /// Key events and invalidations that arrived while handshakes are in flight.
    pub(super) event_log: RefCell<EventLog>,
}

/// Invalidations that are applied together.
#[derive(Default)]
struct PendingInvalidations {
    /// Primary keys of users, and whether an invalidation reported a logout.
    users: HashMap<Box<str>, bool>,
    sessions: HashSet<SessionDigest>,
}

impl Leases {
    /// Creates the leases of a shard; `hub` and `database` are those of the Redis that stores sessions.
    pub fn new(identifier: Rc<Reloadable<Identifier>>, hub: Rc<SharedHub>, database: u8) -> Rc<Self> {
        Rc::new(Self {
            identifier,
            hub,
            database,
            lease_table: RefCell::default(),
            timers: RefCell::default(),
            events: Cell::new(false),
            pending_invalidations: RefCell::default(),
            event_log: RefCell::default(),
        })
    }

    /// Revalidates each lease when its timer expires. Never returns.
    pub async fn run(self: Rc<Self>) {
        loop {
            let expired = poll_fn(|cx| {
                // An empty queue is always ready; inserting into it wakes this task.
                let mut timers = self.timers.borrow_mut();
                match timers.poll_expired(cx) {
                    Poll::Ready(Some(expired)) => Poll::Ready(expired.into_inner()),
                    _ => Poll::Pending,
                }
            });
            if let Some(lease) = expired.await.upgrade() {
                lease.timer.set(None);
                tokio::task::spawn_local(self.clone().revalidate(lease));
            }
        }
    }

    /// Starts a handshake: events are logged for it until the guard is dropped. Call this before the first
    /// read, and keep the guard until [`add`](Self::add) has returned.
    pub fn begin(self: &Rc<Self>) -> InFlight {
        InFlight::new(self)
    }

    /// Subscribes to the keyspace events of a visitor's session, if Redis publishes them. A change after the
    /// acknowledgement cannot be missed.
    pub fn watch(&self, visitor: &Visitor) -> Option<Watch> {
        let subscription = self.hub.join(&[self.event_channel(visitor)?]);
        let leases = self.lease_table.borrow();
        let was_watched = leases.find(&visitor.auth_source).is_some_and(|found| found.is_watched());
        Some(Watch { subscription, was_watched })
    }

    /// Returns the lease's visitor and its read time if it was read after `since` and differs from `visitor`.
    pub fn newer(&self, visitor: &Visitor, since: Instant) -> Option<(Instant, Visitor)> {
        let leases = self.lease_table.borrow();
        let lease = leases.find(&visitor.auth_source).filter(|found| found.since.get() > since)?;
        let known = lease.visitor.borrow();
        (!known.is_same_as(visitor)).then(|| (lease.since.get(), known.clone()))
    }

    fn event_channel(&self, visitor: &Visitor) -> Option<Channel> {
        self.key_channel(visitor).filter(|_| self.events.get())
    }

    /// Returns the keyspace channel of a visitor's session.
    fn key_channel(&self, visitor: &Visitor) -> Option<Channel> {
        let AuthSource::Session(key) = &visitor.auth_source else { return None };
        Some(channel_of(self.database, &self.identifier.get().sessions().key_of(key, visitor.template?)?))
    }

    /// Adds a connection whose visitor was read since `since` to the lease of that visitor, and applies the
    /// events that have arrived since. Returns `None` for an anonymous visitor, who has no lease.
    pub fn add(
        self: &Rc<Self>,
        visitor: Visitor,
        since: Instant,
        listener: &Rc<Listener>,
        watch: Option<Watch>,
    ) -> Option<LeaseHold> {
        if !visitor.is_known() {
            return None;
        }
        let found = self.find(&visitor.auth_source);
        let found = found.filter(|lease| {
            if lease.since.get() > since {
                // The lease is newer than the read that admitted this connection.
                listener.reauthorize();
                return true;
            }
            let verdict = lease.apply_read(&visitor, since);
            match verdict {
                LeaseVerdict::Valid => {}
                LeaseVerdict::Doubtful => self.schedule(lease, lease.closes_at()),
                LeaseVerdict::Ended => self.end(lease, LeaseEnd::Gone),
            }
            verdict != LeaseVerdict::Ended
        });
        let recheck = self.identifier.get().recheck(&visitor);
        let is_new = found.is_none();
        let lease = found.unwrap_or_else(|| {
            let lease = Rc::new(Lease::new(visitor, since));
            self.lease_table.borrow_mut().insert(lease.clone());
            lease
        });
        let (subscription, was_watched) =
            watch.map(|Watch { subscription, was_watched }| (subscription, was_watched)).unzip();
        lease.add(listener, subscription);
        self.schedule(&lease, lease.next_recheck(recheck));
        // The connection that was subscribed during the read has closed since, so an event may have been missed.
        if is_new && was_watched == Some(true) {
            self.schedule_soon(&lease);
        }
        self.apply_logged(&lease, since);
        if !lease.has_watch() {
            self.start_watch(&lease);
        }
        Some(LeaseHold::new(lease, self.clone()))
    }

    /// Calls `action` for each lease with its user's name, or primary key if the name is not known, and with its connections,
    /// each as a number of its own.
    pub fn for_each_user(&self, mut action: impl FnMut(&str, Vec<usize>)) {
        for lease in self.lease_table.borrow().iter() {
            let visitor = lease.visitor.borrow();
            if let Some(user) = visitor.identity.user.as_ref().or(visitor.identity.user_id.as_ref()) {
                action(user, lease.listener_addresses());
            }
        }
    }

    fn find(&self, auth_source: &AuthSource) -> Option<Rc<Lease>> {
        self.lease_table.borrow().find(auth_source).cloned()
    }

    /// Reads the visitor of a lease again and applies the result.
    async fn revalidate(self: Rc<Self>, lease: Rc<Lease>) {
        // A token does not change until it expires.
        if matches!(*lease.auth_source(), AuthSource::Token(_)) && !lease.has_expired() {
            let recheck = self.identifier.get().recheck(&lease.visitor.borrow());
            return self.schedule(&lease, lease.next_recheck(recheck));
        }
        // Without connections it is about to be removed.
        if !lease.is_used() || lease.reading.replace(true) {
            return self.schedule(&lease, Instant::now() + MIN_READ_INTERVAL);
        }
        let since = Instant::now();
        let before = lease.visitor.borrow().clone();
        let identifier = self.identifier.get();
        let read = identifier.revalidate(&before).await;
        lease.reading.set(false);
        let visitor = match read {
            Ok(visitor) => visitor,
            Err(IdentifyError::Refused) => return self.end(&lease, LeaseEnd::Refused),
            Err(IdentifyError::Untrusted(_)) => return self.end(&lease, LeaseEnd::Gone),
            Err(IdentifyError::NoAnswer) if lease.has_expired() => {
                return self.end(&lease, LeaseEnd::Unanswered);
            }
            Err(IdentifyError::NoAnswer) => return self.schedule(&lease, lease.next_recheck(CALLBACK_RETRY)),
            Err(IdentifyError::NoRedis | IdentifyError::Busy) => {
                return self.schedule(&lease, Instant::now() + RETRY);
            }
        };
        // A handshake may have applied a newer read meanwhile.
        if lease.since.get() <= since {
            match lease.apply_read(&visitor, since) {
                LeaseVerdict::Valid => {}
                LeaseVerdict::Doubtful => return self.schedule(&lease, lease.closes_at()),
                LeaseVerdict::Ended => return self.end(&lease, LeaseEnd::Gone),
            }
        }
        let recheck = self.identifier.get().recheck(&lease.visitor.borrow());
        self.schedule(&lease, lease.next_recheck(recheck));
    }

    fn end(&self, lease: &Rc<Lease>, end: LeaseEnd) {
        debug!(sockets = lease.connections(), "session ended");
        lease.end(end);
        self.remove(lease);
    }

    pub(super) fn remove(&self, lease: &Rc<Lease>) {
        self.lease_table.borrow_mut().remove(lease);
        if let Some(timer) = lease.timer.take() {
            let mut timers = self.timers.borrow_mut();
            timers.remove(&timer);
            if timers.is_empty() {
                timers.shrink_to_fit();
            }
        }
    }

    /// Schedules a revalidation, unless an earlier one is scheduled.
    fn schedule(&self, lease: &Rc<Lease>, at: Instant) {
        if lease.is_over() {
            return;
        }
        let mut timers = self.timers.borrow_mut();
        match lease.timer.get() {
            Some(timer) if timers.deadline(&timer) <= at => {}
            Some(timer) => timers.reset_at(&timer, at),
            None => lease.timer.set(Some(timers.insert_at(Rc::downgrade(lease), at))),
        }
    }

    /// Records a suspicion and schedules a revalidation as soon as the read interval permits.
    fn schedule_soon(&self, lease: &Rc<Lease>) {
        lease.suspect();
        self.schedule(lease, Instant::now().max(lease.since.get() + MIN_READ_INTERVAL));
    }

    /// Applies an event of a session's key.
    pub fn key_changed(&self, channel: &Channel, key_event: KeyEvent) {
        self.event_log.borrow_mut().record(LoggedEvent::Key(channel.clone(), key_event));
        let Some(key) = key_of(channel) else { return };
        // A key may match several templates; only the one under which the session was found counts.
        for (template, session) in self.identifier.get().sessions().sessions_at(key) {
            let lease = self.find(&AuthSource::Session(session));
            if let Some(lease) = lease.filter(|lease| lease.visitor.borrow().template == Some(template)) {
                self.apply_key_event(&lease, key_event);
            }
        }
    }

    fn apply_key_event(&self, lease: &Rc<Lease>, key_event: KeyEvent) {
        // Expiry and eviction do not mean a logout. A key that was deleted and written again counts as deleted.
        if key_event.is_deleted || key_event.is_renamed {
            // A login deletes the old session, too, before the browser has its new cookie: read again after the delay.
            lease.record_deletion();
            self.schedule(lease, lease.suspect());
        } else {
            self.schedule_soon(lease);
        }
    }

    /// Collects invalidations; they are applied together after a short window.
    pub fn invalidate(self: &Rc<Self>, invalidations: &[Invalidation]) {
        self.identifier.get().evict_answers();
        let mut pending = self.pending_invalidations.borrow_mut();
        if pending.users.is_empty() && pending.sessions.is_empty() {
            let leases = self.clone();
            tokio::task::spawn_local(async move {
                sleep(INVALIDATION_WINDOW).await;
                leases.apply_invalidations();
            });
        }
        for invalidation in invalidations {
            self.event_log.borrow_mut().record(LoggedEvent::Invalidation(invalidation.clone()));
            match invalidation {
                Invalidation::User { id, logout } => *pending.users.entry(id.clone()).or_default() |= logout,
                Invalidation::Session(digest) => drop(pending.sessions.insert(*digest)),
                // Of no session.
                Invalidation::Groups { .. } => {}
            }
        }
    }

    fn apply_invalidations(&self) {
        let pending = self.pending_invalidations.take();
        let leases = self.lease_table.borrow();
        for lease in leases.iter() {
            let ended = lease.digest.is_some_and(|digest| pending.sessions.contains(&digest));
            let logout = lease.visitor.borrow().owner().and_then(|id| pending.users.get(id).copied());
            if ended || logout.is_some() {
                self.apply_invalidation(lease, ended || logout == Some(true));
            }
        }
    }

    fn apply_invalidation(&self, lease: &Rc<Lease>, deleted: bool) {
        if deleted {
            lease.record_deletion();
        }
        self.schedule_soon(lease);
    }

    /// Applies the events that were logged since the visitor's read began.
    fn apply_logged(&self, lease: &Rc<Lease>, since: Instant) {
        let visitor = lease.visitor.borrow();
        let event_log = self.event_log.borrow();
        let mut own = None;
        for event in event_log.since(since) {
            match event {
                LoggedEvent::Key(channel, key_event) => {
                    let own = own.get_or_insert_with(|| self.key_channel(&visitor));
                    if own.as_ref() == Some(channel) {
                        self.apply_key_event(lease, *key_event);
                    }
                }
                LoggedEvent::Invalidation(Invalidation::User { id, logout })
                    if visitor.owner() == Some(&**id) =>
                {
                    self.apply_invalidation(lease, *logout);
                }
                LoggedEvent::Invalidation(Invalidation::Session(digest)) if lease.digest == Some(*digest) => {
                    self.apply_invalidation(lease, true);
                }
                LoggedEvent::Any => self.schedule_spread(lease),
                LoggedEvent::Invalidation(_) => {}
            }
        }
    }

    /// Subscribes to the events of a session that could not be watched during its handshake, and reads it again after
    /// the acknowledgement.
    fn start_watch(self: &Rc<Self>, lease: &Rc<Lease>) {
        let Some(channel) = self.event_channel(&lease.visitor.borrow()) else { return };
        let (leases, lease, watch) = (self.clone(), Rc::downgrade(lease), self.hub.join(&[channel]));
        tokio::task::spawn_local(async move {
            // This ends in any case: Redis acknowledges, refuses or is lost.
            let _ = watch.joined().await;
            if let Some(lease) = lease.upgrade() {
                lease.set_watch(Some(watch));
                leases.schedule_soon(&lease);
            }
        });
    }

    /// Sets whether Redis publishes keyspace events, and watches or unwatches all sessions.
    pub fn set_events(self: &Rc<Self>, events: bool) {
        if self.events.replace(events) == events {
            return;
        }
        if events {
            self.watch_all();
        } else {
            self.lease_table.borrow().iter().for_each(|lease| lease.set_watch(None));
        }
    }

    /// Watches all sessions, and revalidates them once Redis has acknowledged: an earlier read could miss a change.
    fn watch_all(self: &Rc<Self>) {
        let mut channels = Vec::new();
        for lease in self.lease_table.borrow().iter() {
            if let Some(channel) = self.event_channel(&lease.visitor.borrow()) {
                lease.set_watch(Some(self.hub.join(std::slice::from_ref(&channel))));
                channels.push(channel);
            }
        }
        // Each lease owns its subscription. This one only waits for all of them, and adds no request to Redis.
        let (leases, all) = (self.clone(), self.hub.join(&channels));
        tokio::task::spawn_local(async move {
            let _ = all.joined().await;
            leases.revalidate_all();
        });
    }

    /// Revalidates all leases, spread over some time: events may have been missed.
    pub fn revalidate_all(&self) {
        self.identifier.get().evict_answers();
        self.event_log.borrow_mut().record(LoggedEvent::Any);
        self.lease_table.borrow().iter().for_each(|lease| self.schedule_spread(lease));
    }

    fn schedule_spread(&self, lease: &Rc<Lease>) {
        let spread = match *lease.auth_source() {
            AuthSource::Session(_) => SPREAD,
            AuthSource::Callback(_) => CALLBACK_SPREAD,
            AuthSource::None | AuthSource::Token(_) => return,
        };
        let at = Instant::now() + spread.mul_f32(rand::random());
        self.schedule(lease, at.max(lease.since.get() + MIN_READ_INTERVAL));
    }
}

/// Sizes that docs/performance/memory.md lists.
#[cfg(test)]
pub(crate) const SIZES: &[(&str, usize)] =
    &[("Lease", 2 * size_of::<usize>() + size_of::<Lease>()), super::table::SIZE];
