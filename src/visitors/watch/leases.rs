//! How long what is known of visitors holds: for each session, token or callback answer, the connections that live by it, and when
//! it is looked at again.
//!
//! That happens when its time is over, when Redis or the Django package says that something has changed, and now and
//! then without any reason, since neither has to say anything. Who has become somebody else, or is in other groups now,
//! keeps the socket and hears other channels; what has ended closes it.

use std::cell::{Cell, Ref, RefCell};
use std::collections::{HashMap, HashSet};
use std::future::poll_fn;
use std::rc::{Rc, Weak};
use std::task::Poll;
use std::time::Duration;

use tokio::time::{Instant, sleep};
use tokio_util::time::DelayQueue;
use tracing::debug;

use super::invalidations::{InFlight, Invalidation, Invalidations};
use super::lease::{Lease, Verdict};
use super::table::LeaseTable;
use crate::hub::{Listener, SharedHub, Subscription};
use crate::visitors::{AuthSource, Identifier, IdentifyError, Visitor};
use crate::wire::{Channel, Hint, SessionDigest};
use crate::wire::{KeyEvent, channel_of, key_of};

/// The shortest time between two readings of the same auth source: whoever can cause them cannot cause more.
const PAUSE: Duration = Duration::from_secs(1);

/// Time after which is tried again what failed.
const RETRY: Duration = Duration::from_secs(1);

/// Time after which a site that has not answered is asked again about open sockets.
const CALLBACK_RETRY: Duration = Duration::from_secs(5);

/// Time in which hints are collected, to look through the sessions once for all.
const COLLECT: Duration = Duration::from_millis(100);

/// Time over which all are read again, after something may have been missed.
const SPREAD: Duration = Duration::from_secs(1);

/// The same for those about whom the site is asked.
const CALLBACK_SPREAD: Duration = Duration::from_secs(20);

/// What tells of a visitor's session.
pub struct Watch {
    /// The subscription of the channel that tells.
    pub subscription: Subscription,
    /// Whether somebody listened already while the session was read.
    pub known: bool,
}

/// What a shard's open sockets live by.
pub struct Leases {
    identifier: Rc<Identifier>,
    /// Where the channels are wanted that tell of keys.
    hub: Rc<SharedHub>,
    database: u8,
    lease_table: RefCell<LeaseTable>,
    timers: RefCell<DelayQueue<Weak<Lease>>>,
    /// Whether Redis tells what happens to keys.
    events: Cell<bool>,
    /// What one has been told to look at, and not looked at yet.
    hinted: RefCell<Hinted>,
    /// What arrived while handshakes are in flight.
    pub(super) invalidations: RefCell<Invalidations>,
}

/// Where one has to look.
#[derive(Default)]
struct Hinted {
    /// Users, and whether a session of theirs was ended on purpose.
    users: HashMap<Box<str>, bool>,
    sessions: HashSet<SessionDigest>,
}

/// A connection's share in what it lives by.
pub struct Share {
    lease: Rc<Lease>,
    leases: Rc<Leases>,
}

impl Leases {
    /// Takes those who look, the hub of the Redis where sessions lie, and the number of its database.
    pub fn new(identifier: Rc<Identifier>, hub: Rc<SharedHub>, database: u8) -> Rc<Self> {
        Rc::new(Self {
            identifier,
            hub,
            database,
            lease_table: RefCell::default(),
            timers: RefCell::default(),
            events: Cell::new(false),
            hinted: RefCell::default(),
            invalidations: RefCell::default(),
        })
    }

    /// Looks at each auth source when it is due, for ever.
    pub async fn run(self: Rc<Self>) {
        loop {
            let due = poll_fn(|cx| {
                // Empty, it would be ready for ever; whatever is put in wakes the task.
                let mut timers = self.timers.borrow_mut();
                match timers.poll_expired(cx) {
                    Poll::Ready(Some(due)) => Poll::Ready(due.into_inner()),
                    _ => Poll::Pending,
                }
            });
            if let Some(lease) = due.await.upgrade() {
                lease.timer.set(None);
                tokio::task::spawn_local(self.clone().renew(lease));
            }
        }
    }

    /// Begins a handshake: from now on what happens to sessions and users is remembered for it. Taken before the first
    /// read, and kept until [`add`](Self::add).
    pub fn begin(self: &Rc<Self>) -> InFlight {
        InFlight::new(self)
    }

    /// Begins to listen to what happens to a visitor's session, if Redis tells. What is read after this has been
    /// acknowledged cannot have changed unnoticed.
    pub fn watch(&self, visitor: &Visitor) -> Option<Watch> {
        let subscription = self.hub.join(&[self.event_channel(visitor)?]);
        let leases = self.lease_table.borrow();
        let known = leases.find(&visitor.auth_source).is_some_and(|found| found.is_watched());
        Some(Watch { subscription, known })
    }

    /// Returns what is known of a visitor, if that is newer than what was read since that time, and something else.
    pub fn newer(&self, visitor: &Visitor, since: Instant) -> Option<(Instant, Visitor)> {
        let leases = self.lease_table.borrow();
        let lease = leases.find(&visitor.auth_source).filter(|found| found.since.get() > since)?;
        let known = lease.visitor.borrow();
        (!known.is_as(visitor)).then(|| (lease.since.get(), known.clone()))
    }

    fn event_channel(&self, visitor: &Visitor) -> Option<Channel> {
        self.key_channel(visitor).filter(|_| self.events.get())
    }

    /// Returns the channel that tells of a visitor's session, where Redis tells.
    fn key_channel(&self, visitor: &Visitor) -> Option<Channel> {
        let AuthSource::Session(key) = &visitor.auth_source else { return None };
        Some(channel_of(self.database, &self.identifier.sessions().key_of(key, visitor.template?)?))
    }

    /// Notes a socket, and what has been read of its visitor since that time. Returns none where nothing is known of it.
    /// What has happened since then and was told before this is followed now.
    pub fn add(
        self: &Rc<Self>,
        visitor: Visitor,
        since: Instant,
        listener: &Rc<Listener>,
        watch: Option<Watch>,
    ) -> Option<Share> {
        if !visitor.is_known() {
            return None;
        }
        let found = self.find(&visitor.auth_source);
        let found = found.filter(|lease| {
            if lease.since.get() > since {
                // What is known already is newer than what this one was let in by.
                listener.reauthorize();
                return true;
            }
            let verdict = lease.judge(&visitor, since);
            match verdict {
                Verdict::Holds => {}
                Verdict::Doubtful => self.schedule(lease, lease.closes_at()),
                Verdict::Ended => self.end(lease),
            }
            verdict != Verdict::Ended
        });
        let recheck = self.identifier.recheck(&visitor);
        let is_new = found.is_none();
        let lease = found.unwrap_or_else(|| {
            let lease = Rc::new(Lease::new(visitor, since));
            self.lease_table.borrow_mut().insert(lease.clone());
            lease
        });
        let (subscription, known) = watch.map(|Watch { subscription, known }| (subscription, known)).unzip();
        lease.add(listener, subscription);
        self.schedule(&lease, lease.due(recheck));
        // Whoever listened while it was read has gone since, so something may have been missed.
        if is_new && known == Some(true) {
            self.hurry(&lease);
        }
        self.catch_up(&lease, since);
        if !lease.has_watch() {
            self.watch_late(&lease);
        }
        Some(Share { lease, leases: self.clone() })
    }

    fn find(&self, auth_source: &AuthSource) -> Option<Rc<Lease>> {
        self.lease_table.borrow().find(auth_source).cloned()
    }

    /// Looks again at what sockets live by.
    async fn renew(self: Rc<Self>, lease: Rc<Lease>) {
        // A token says the same until its end.
        if matches!(*lease.auth_source(), AuthSource::Token(_)) && !lease.ends_by_itself() {
            let recheck = self.identifier.recheck(&lease.visitor.borrow());
            return self.schedule(&lease, lease.due(recheck));
        }
        // Without sockets it is gone, or as good as gone.
        if !lease.is_used() || lease.reading.replace(true) {
            return self.schedule(&lease, Instant::now() + PAUSE);
        }
        let since = Instant::now();
        let before = lease.visitor.borrow().clone();
        let read = self.identifier.revalidate(&before).await;
        lease.reading.set(false);
        let visitor = match read {
            Ok(visitor) => visitor,
            Err(IdentifyError::Refused | IdentifyError::Untrusted(_)) => return self.end(&lease),
            Err(IdentifyError::NoAnswer) if lease.ends_by_itself() => return self.end(&lease),
            Err(IdentifyError::NoAnswer) => return self.schedule(&lease, lease.due(CALLBACK_RETRY)),
            Err(IdentifyError::NoRedis | IdentifyError::Busy) => {
                return self.schedule(&lease, Instant::now() + RETRY);
            }
        };
        // What a socket brought meanwhile may be newer than this.
        if lease.since.get() <= since {
            match lease.judge(&visitor, since) {
                Verdict::Holds => {}
                Verdict::Doubtful => return self.schedule(&lease, lease.closes_at()),
                Verdict::Ended => return self.end(&lease),
            }
        }
        let recheck = self.identifier.recheck(&lease.visitor.borrow());
        self.schedule(&lease, lease.due(recheck));
    }

    fn end(&self, lease: &Rc<Lease>) {
        debug!(sockets = lease.sockets(), "session ended");
        lease.end();
        self.forget(lease);
    }

    fn forget(&self, lease: &Rc<Lease>) {
        self.lease_table.borrow_mut().remove(lease);
        if let Some(timer) = lease.timer.take() {
            let mut timers = self.timers.borrow_mut();
            timers.remove(&timer);
            if timers.is_empty() {
                timers.shrink_to_fit();
            }
        }
    }

    /// Has a auth source looked at, unless that happens earlier anyway.
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

    /// Has a auth source looked at as soon as that may be. If it has ended, then now.
    fn hurry(&self, lease: &Rc<Lease>) {
        lease.suspect();
        self.schedule(lease, Instant::now().max(lease.since.get() + PAUSE));
    }

    /// Takes what has happened to the key of a session.
    pub fn key_changed(&self, channel: &Channel, key_event: KeyEvent) {
        self.invalidations.borrow_mut().note(Invalidation::Key(channel.clone(), key_event));
        let Some(key) = key_of(channel) else { return };
        // A key may fit several templates; what counts is the one under which the session was found.
        for (template, session) in self.identifier.sessions().sessions_at(key) {
            let lease = self.find(&AuthSource::Session(session));
            let lease = lease.filter(|lease| lease.visitor.borrow().template == Some(template));
            match (lease, key_event) {
                (None, _) => {}
                (Some(lease), key_event) => self.follow_key_event(&lease, key_event),
            }
        }
    }

    fn follow_key_event(&self, lease: &Rc<Lease>, key_event: KeyEvent) {
        match key_event {
            // A login deletes the session, too, a moment before the browser has its new cookie.
            KeyEvent::Deleted => {
                lease.note_deletion();
                self.schedule(lease, lease.suspect());
            }
            KeyEvent::Changed => self.hurry(lease),
        }
    }

    /// Takes hints: where one has to look.
    pub fn hint(self: &Rc<Self>, hints: &[Hint]) {
        self.identifier.forget();
        let mut hinted = self.hinted.borrow_mut();
        if hinted.users.is_empty() && hinted.sessions.is_empty() {
            let leases = self.clone();
            tokio::task::spawn_local(async move {
                sleep(COLLECT).await;
                leases.follow_hints();
            });
        }
        for hint in hints {
            self.invalidations.borrow_mut().note(Invalidation::Hint(hint.clone()));
            match hint {
                Hint::User { id, logout } => *hinted.users.entry(id.clone()).or_default() |= logout,
                Hint::Session(digest) => drop(hinted.sessions.insert(*digest)),
            }
        }
    }

    fn follow_hints(&self) {
        let hinted = self.hinted.take();
        let leases = self.lease_table.borrow();
        for lease in leases.iter() {
            let ended = lease.digest.is_some_and(|digest| hinted.sessions.contains(&digest));
            let logout = lease.visitor.borrow().owner().and_then(|id| hinted.users.get(id).copied());
            if ended || logout.is_some() {
                self.follow(lease, ended || logout == Some(true));
            }
        }
    }

    fn follow(&self, lease: &Rc<Lease>, deleted: bool) {
        if deleted {
            lease.note_deletion();
        }
        self.hurry(lease);
    }

    /// Follows what was told since a visitor began to be looked up, and before its lease was registered.
    fn catch_up(&self, lease: &Rc<Lease>, since: Instant) {
        let visitor = lease.visitor.borrow();
        let invalidations = self.invalidations.borrow();
        let mut own = None;
        for what in invalidations.since(since) {
            match what {
                Invalidation::Key(channel, key_event) => {
                    let own = own.get_or_insert_with(|| self.key_channel(&visitor));
                    if own.as_ref() == Some(channel) {
                        self.follow_key_event(lease, *key_event);
                    }
                }
                Invalidation::Hint(Hint::User { id, logout }) if visitor.owner() == Some(&**id) => {
                    self.follow(lease, *logout);
                }
                Invalidation::Hint(Hint::Session(digest)) if lease.digest == Some(*digest) => {
                    self.follow(lease, true);
                }
                Invalidation::Any => self.look_at(lease),
                Invalidation::Hint(_) => {}
            }
        }
    }

    /// Watches a session that could not be watched when its handshake began, and reads it again once Redis tells.
    fn watch_late(self: &Rc<Self>, lease: &Rc<Lease>) {
        let Some(channel) = self.event_channel(&lease.visitor.borrow()) else { return };
        let (leases, lease, watch) = (self.clone(), Rc::downgrade(lease), self.hub.join(&[channel]));
        tokio::task::spawn_local(async move {
            // It ends: Redis acknowledges, refuses, or is lost.
            let _ = watch.joined().await;
            if let Some(lease) = lease.upgrade() {
                lease.watch_by(Some(watch));
                leases.hurry(&lease);
            }
        });
    }

    /// Takes whether Redis tells what happens to keys.
    pub fn set_events(self: &Rc<Self>, events: bool) {
        if self.events.replace(events) == events {
            return;
        }
        let mut channels = Vec::new();
        for lease in self.lease_table.borrow().iter() {
            let channel = self.event_channel(&lease.visitor.borrow());
            channels.extend(channel.clone());
            lease.watch_by(channel.map(|channel| self.hub.join(&[channel])));
        }
        if events {
            let (leases, all) = (self.clone(), self.hub.join(&channels));
            tokio::task::spawn_local(async move {
                // What is read before Redis tells of all of them could change unnoticed.
                let _ = all.joined().await;
                leases.look_at_all();
            });
        }
    }

    /// Looks at all, over a while: something may have happened to any of them, or may have been said.
    pub fn look_at_all(&self) {
        self.identifier.forget();
        self.invalidations.borrow_mut().note(Invalidation::Any);
        self.lease_table.borrow().iter().for_each(|lease| self.look_at(lease));
    }

    fn look_at(&self, lease: &Rc<Lease>) {
        let spread = match *lease.auth_source() {
            AuthSource::Session(_) => SPREAD,
            AuthSource::Callback(_) => CALLBACK_SPREAD,
            AuthSource::None | AuthSource::Token(_) => return,
        };
        let at = Instant::now() + spread.mul_f32(rand::random());
        self.schedule(lease, at.max(lease.since.get() + PAUSE));
    }
}

/// What stands in the table of docs/performance/memory.md.
#[cfg(test)]
pub(crate) const SIZES: &[(&str, usize)] =
    &[("Lease", 2 * size_of::<usize>() + size_of::<Lease>()), super::table::SIZE];

impl Share {
    /// Tells whether what is known seems to have ended.
    pub fn is_doubtful(&self) -> bool {
        self.lease.is_doubtful()
    }

    /// Returns what is known of the visitor now.
    pub fn visitor(&self) -> Ref<'_, Visitor> {
        self.lease.visitor.borrow()
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        if self.lease.leave() {
            self.leases.forget(&self.lease);
        }
    }
}
