//! How long what is known of visitors holds: for each proof of who somebody is, the sockets that live by it, and when
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

use foldhash::fast::RandomState;
use tokio::time::{Instant, sleep};
use tokio_util::time::DelayQueue;
use tracing::debug;

use super::lease::{Lease, Verdict};
use crate::hub::{Desk, Listener, Subscription};
use crate::reception::{NotReceived, Proof, Reception, Visitor};
use crate::redis::{Touch, channel_of, key_of};
use crate::wire::{Channel, Hint, SessionDigest};

/// The shortest time between two readings of the same proof: whoever can cause them cannot cause more.
const PAUSE: Duration = Duration::from_secs(1);

/// Time after which is tried again what failed.
const RETRY: Duration = Duration::from_secs(1);

/// Time after which a site that has not answered is asked again about open sockets.
const CALLBACK_RETRY: Duration = Duration::from_secs(5);

/// Time in which hints are collected, to look through the sessions once for all.
const COLLECT: Duration = Duration::from_millis(100);

/// Time over which all are read again, after something may have been missed.
const SPREAD: Duration = Duration::from_secs(1);

/// What a shard's open sockets live by.
pub struct Leases {
    reception: Rc<Reception>,
    /// Where the channels are wanted that tell of keys.
    desk: Rc<Desk>,
    database: u8,
    by_proof: RefCell<HashMap<Proof, Rc<Lease>, RandomState>>,
    timers: RefCell<DelayQueue<Weak<Lease>>>,
    /// Whether Redis tells what happens to keys.
    events: Cell<bool>,
    /// What one has been told to look at, and not looked at yet.
    hinted: RefCell<Hinted>,
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
    /// Takes those who look, the desk of the Redis where sessions lie, and the number of its database.
    pub fn new(reception: Rc<Reception>, desk: Rc<Desk>, database: u8) -> Rc<Self> {
        Rc::new(Self {
            reception,
            desk,
            database,
            by_proof: RefCell::default(),
            timers: RefCell::default(),
            events: Cell::new(false),
            hinted: RefCell::default(),
        })
    }

    /// Looks at each proof when it is due, for ever.
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

    /// Begins to listen to what happens to a visitor's session, if Redis tells, and nobody listens yet. What is read
    /// after this has been acknowledged cannot have changed unnoticed.
    pub fn watch(&self, visitor: &Visitor) -> Option<Subscription> {
        let channel = self.event_channel(visitor)?;
        let leases = self.by_proof.borrow();
        let watched = leases.get(&visitor.proof).is_some_and(|lease| lease.is_watched());
        (!watched).then(|| self.desk.join(&[channel]))
    }

    fn event_channel(&self, visitor: &Visitor) -> Option<Channel> {
        let (Proof::Session(key), true) = (&visitor.proof, self.events.get()) else { return None };
        Some(channel_of(self.database, &self.reception.sessions().key_of(key, visitor.template?)?))
    }

    /// Notes a socket, and what has been read of its visitor since that time. Returns none where nothing is known of it.
    pub fn add(
        self: &Rc<Self>,
        visitor: Visitor,
        since: Instant,
        listener: &Rc<Listener>,
        watch: Option<Subscription>,
    ) -> Option<Share> {
        if !visitor.is_known() {
            return None;
        }
        let found = self.by_proof.borrow().get(&visitor.proof).cloned();
        let found = found.filter(|lease| {
            if lease.since.get() > since {
                // What is known already is newer than what this one was let in by.
                listener.review();
                return true;
            }
            let holds = lease.judge(&visitor, since) == Verdict::Holds;
            if !holds {
                // It has just been read: sockets that were let in as somebody who is gone do not stay.
                self.end(lease);
            }
            holds
        });
        let recheck = self.reception.recheck(&visitor);
        let lease = found.unwrap_or_else(|| {
            let lease = Rc::new(Lease::new(visitor, since));
            self.by_proof.borrow_mut().insert(lease.proof.clone(), lease.clone());
            lease
        });
        lease.add(listener, watch);
        self.schedule(&lease, lease.due(recheck));
        Some(Share { lease, leases: self.clone() })
    }

    /// Looks again at what sockets live by.
    async fn renew(self: Rc<Self>, lease: Rc<Lease>) {
        // A token says the same until its end.
        if matches!(lease.proof, Proof::Token(_)) && !lease.ends_by_itself() {
            let recheck = self.reception.recheck(&lease.visitor.borrow());
            return self.schedule(&lease, lease.due(recheck));
        }
        // Without sockets it is gone, or as good as gone.
        if !lease.is_used() || lease.reading.replace(true) {
            return self.schedule(&lease, Instant::now() + PAUSE);
        }
        let since = Instant::now();
        let before = lease.visitor.borrow().clone();
        let read = self.reception.again(&before).await;
        lease.reading.set(false);
        let visitor = match read {
            Ok(visitor) => visitor,
            Err(NotReceived::Refused | NotReceived::Untrusted(_)) => return self.end(&lease),
            Err(NotReceived::NoAnswer) if lease.ends_by_itself() => return self.end(&lease),
            Err(NotReceived::NoAnswer) => return self.schedule(&lease, lease.due(CALLBACK_RETRY)),
            Err(NotReceived::NoRedis) => return self.schedule(&lease, Instant::now() + RETRY),
        };
        // What a socket brought meanwhile may be newer than this.
        if lease.since.get() <= since {
            match lease.judge(&visitor, since) {
                Verdict::Holds => {}
                Verdict::Doubtful => return self.schedule(&lease, lease.doubt()),
                Verdict::Ended => return self.end(&lease),
            }
        }
        let recheck = self.reception.recheck(&lease.visitor.borrow());
        self.schedule(&lease, lease.due(recheck));
    }

    fn end(&self, lease: &Rc<Lease>) {
        debug!(sockets = lease.sockets(), "session ended");
        lease.end();
        self.forget(lease);
    }

    fn forget(&self, lease: &Rc<Lease>) {
        let mut leases = self.by_proof.borrow_mut();
        if leases.get(&lease.proof).is_some_and(|present| Rc::ptr_eq(present, lease)) {
            leases.remove(&lease.proof);
        }
        drop(leases);
        if let Some((timer, _)) = lease.timer.take() {
            self.timers.borrow_mut().remove(&timer);
        }
    }

    /// Has a proof looked at, unless that happens earlier anyway.
    fn schedule(&self, lease: &Rc<Lease>, at: Instant) {
        if lease.is_over() {
            return;
        }
        let mut timers = self.timers.borrow_mut();
        match lease.timer.get() {
            Some((_, due)) if due <= at => {}
            Some((timer, _)) => {
                timers.reset_at(&timer, at);
                lease.timer.set(Some((timer, at)));
            }
            None => lease.timer.set(Some((timers.insert_at(Rc::downgrade(lease), at), at))),
        }
    }

    /// Has a proof looked at as soon as that may be. If it has ended, then now.
    fn hurry(&self, lease: &Rc<Lease>) {
        lease.doubt();
        self.schedule(lease, Instant::now().max(lease.since.get() + PAUSE));
    }

    /// Takes what has happened to the key of a session.
    pub fn touched(&self, channel: &Channel, touch: Touch) {
        let session = key_of(channel).and_then(|key| self.reception.sessions().session_at(key));
        let Some(session) = session else { return };
        let Some(lease) = self.by_proof.borrow().get(&Proof::Session(session)).cloned() else { return };
        match touch {
            // A login deletes the session, too, a moment before the browser has its new cookie.
            Touch::Deleted => {
                lease.deleted.set(true);
                self.schedule(&lease, lease.doubt());
            }
            Touch::Changed => self.hurry(&lease),
        }
    }

    /// Takes hints: where one has to look.
    pub fn hint(self: &Rc<Self>, hints: &[Hint]) {
        self.reception.forget();
        let mut hinted = self.hinted.borrow_mut();
        if hinted.users.is_empty() && hinted.sessions.is_empty() {
            let leases = self.clone();
            tokio::task::spawn_local(async move {
                sleep(COLLECT).await;
                leases.follow_hints();
            });
        }
        for hint in hints {
            match hint {
                Hint::User { id, logout } => *hinted.users.entry(id.clone()).or_default() |= logout,
                Hint::Session(digest) => drop(hinted.sessions.insert(*digest)),
            }
        }
    }

    fn follow_hints(&self) {
        let hinted = self.hinted.take();
        let leases = self.by_proof.borrow();
        for lease in leases.values() {
            let ended = lease.digest.is_some_and(|digest| hinted.sessions.contains(&digest));
            let logout = lease.user_id().and_then(|id| hinted.users.get(&*id).copied());
            if ended || logout.is_some() {
                lease.deleted.set(lease.deleted.get() || ended || logout == Some(true));
                self.hurry(lease);
            }
        }
    }

    /// Takes whether Redis tells what happens to keys.
    pub fn set_events(&self, events: bool) {
        if self.events.replace(events) == events {
            return;
        }
        for lease in self.by_proof.borrow().values() {
            let channel = self.event_channel(&lease.visitor.borrow());
            lease.watch.replace(channel.map(|channel| self.desk.join(&[channel])));
        }
        if events {
            self.look_at_all();
        }
    }

    /// Looks at all, over a while: something may have happened to any of them.
    pub fn look_at_all(&self) {
        for lease in self.by_proof.borrow().values() {
            // For nothing else than a session this is new.
            if let Proof::Session(_) = lease.proof {
                self.schedule(lease, Instant::now() + SPREAD.mul_f32(rand::random()));
            }
        }
    }
}

impl Share {
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
