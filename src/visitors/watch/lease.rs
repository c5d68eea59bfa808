//! The lease of one visitor: its identity, and the connections that depend on it.

use std::cell::{Cell, Ref, RefCell};
use std::rc::{Rc, Weak};
use std::time::Duration;

use smallvec::SmallVec;
use tokio::time::Instant;
use tokio_util::time::delay_queue::Key;

use crate::access::session_digest;
use crate::hub::{Ending, Listener, Subscription};
use crate::visitors::{AuthSource, Visitor};
use crate::wire::SessionDigest;

/// Delay in milliseconds before connections of an ended session are closed: a browser that has just logged in has its
/// new cookie by then, and the jitter spreads the reconnections.
const CLOSE_DELAY_MS: std::ops::RangeInclusive<u64> = 1_000..=1_500;

/// Shortest time until a periodic revalidation.
const MIN_RECHECK: Duration = Duration::from_millis(200);

/// Longest time until a revalidation: timers are limited to about two years.
const MAX_RECHECK: Duration = Duration::from_hours(24);

/// Time after a known expiry at which the session is read: Redis rounds to milliseconds.
const EXPIRY_MARGIN: Duration = Duration::from_millis(5);

/// The identity of one visitor, shared by its connections.
pub(super) struct Lease {
    /// The name of the session in invalidations of the Django package.
    pub(super) digest: Option<SessionDigest>,
    /// The result of the last read.
    pub(super) visitor: RefCell<Visitor>,
    /// Whether a user was logged in.
    had_user: Cell<bool>,
    /// One inline: most visitors have one page open.
    listeners: Cell<SmallVec<[Weak<Listener>; 1]>>,
    /// Connections that hold this lease.
    shares: Cell<u32>,
    /// When the last read began.
    pub(super) since: Cell<Instant>,
    /// The timer of the next revalidation.
    pub(super) timer: Cell<Option<Key>>,
    pub(super) reading: Cell<bool>,
    /// When the identity expires, if that is known.
    expires_at: Cell<Option<Instant>>,
    /// Pending evidence against the session. Boxed, because most leases have none.
    evidence: Cell<Option<Box<Evidence>>>,
    ended: Cell<Option<LeaseEnd>>,
    /// The subscription to the keyspace events of the session's key.
    watch: Cell<Option<Subscription>>,
}

/// Evidence that a session has ended, or will.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Evidence {
    /// Set while the session may have ended.
    doubt: Option<Doubt>,
    /// When a deletion was reported. A read that began earlier cannot refute it.
    deleted: Option<Instant>,
}

/// A suspicion that a session has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Doubt {
    /// When it was last reported or confirmed. Only a read that begins later can refute it.
    raised_at: Instant,
    /// When the connections are closed if it is true.
    closes_at: Instant,
    /// Whether a read has confirmed it.
    confirmed: bool,
}

/// The consequence of a read for the connections of a lease.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum LeaseVerdict {
    /// They stay open.
    Valid,
    /// They stay open until the doubt is resolved.
    Doubtful,
    /// They are closed.
    Ended,
}

/// Why a lease has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LeaseEnd {
    /// The session, the token or the user is gone.
    Gone,
    /// The callback refuses the visitor.
    Refused,
    /// The callback's last answer has expired, and it does not answer again.
    Unanswered,
}

impl Lease {
    pub(super) fn new(visitor: Visitor, since: Instant) -> Self {
        let expires_at = visitor.lives_ms.map(|ms| since + Duration::from_millis(ms));
        let digest = visitor.identity.session.as_ref().map(session_digest);
        Self {
            digest,
            had_user: Cell::new(visitor.identity.user_id.is_some()),
            visitor: RefCell::new(visitor),
            listeners: Cell::default(),
            shares: Cell::default(),
            since: Cell::new(since),
            timer: Cell::default(),
            reading: Cell::default(),
            expires_at: Cell::new(expires_at),
            evidence: Cell::default(),
            ended: Cell::default(),
            watch: Cell::default(),
        }
    }

    /// Adds a connection, with its subscription to the key's events if it has one. A connection may be added repeatedly.
    pub(super) fn add(&self, listener: &Rc<Listener>, watch: Option<Subscription>) {
        self.shares.set(self.shares.get() + 1);
        let mut listeners = self.listeners.take();
        if listeners.len() > 2 * self.connections() {
            listeners.retain(|listener| listener.strong_count() > 0);
            listeners.shrink_to_fit();
        }
        listeners.push(Rc::downgrade(listener));
        self.listeners.set(listeners);
        if watch.is_some() {
            self.set_watch(watch);
        }
    }

    /// Sets the subscription to the key's events. It is muted: key events arrive as broker events.
    pub(super) fn set_watch(&self, watch: Option<Subscription>) {
        watch.iter().for_each(Subscription::mute);
        self.watch.set(watch);
    }

    /// Removes a connection, once. One that has closed need not be removed.
    pub(super) fn remove(&self, listener: &Weak<Listener>) {
        let mut listeners = self.listeners.take();
        if let Some(index) = listeners.iter().position(|other| other.ptr_eq(listener)) {
            listeners.swap_remove(index);
        }
        self.listeners.set(listeners);
    }

    /// Ends the hold of a connection. Returns true for the last one.
    pub(super) fn release(&self) -> bool {
        self.shares.set(self.shares.get() - 1);
        self.shares.get() == 0
    }

    pub(super) fn is_used(&self) -> bool {
        self.shares.get() > 0
    }

    pub(super) fn connections(&self) -> usize {
        self.shares.get() as usize
    }

    pub(super) fn is_over(&self) -> bool {
        self.ended.get().is_some() || !self.is_used()
    }

    pub(super) fn has_watch(&self) -> bool {
        with_content(&self.watch, Option::is_some)
    }

    pub(super) fn is_watched(&self) -> bool {
        with_content(&self.watch, |watch| watch.as_ref().is_some_and(Subscription::is_subscribed))
    }

    /// Returns how the identity was established.
    pub(super) fn auth_source(&self) -> Ref<'_, AuthSource> {
        Ref::map(self.visitor.borrow(), |visitor| &visitor.auth_source)
    }

    /// Applies the result of a read that began at `since`, and returns its consequence.
    ///
    /// A session may vanish for a moment (a login replaces it, a cache evicts its copy), so connections close only when
    /// a read confirms the end after the delay.
    pub(super) fn apply_read(&self, read: &Visitor, since: Instant) -> LeaseVerdict {
        let now = Instant::now();
        self.since.set(since);
        // The cache may evict a copy while the session is valid, but not after its expiry or a reported deletion.
        let over = self.evidence().deleted.is_some() || self.expires_at.get().is_some_and(|end| end <= now);
        let identity = &read.identity;
        let anonymous = identity.user_id.is_none() && identity.session.is_none();
        let had_session = self.visitor.borrow().identity.session.is_some();
        let gone = !read.is_known() || (read.missing && over) || (anonymous && had_session);
        let without_user = self.had_user.get() && identity.user_id.is_none();
        if gone || without_user {
            let closes_at = self.confirm_doubt();
            if now >= closes_at || self.has_expired() {
                return LeaseVerdict::Ended;
            }
            if !gone {
                // The session exists without its user: revoke the user's channels at once.
                self.replace(read);
            }
            return LeaseVerdict::Doubtful;
        }
        // The read cannot refute reports that arrived after it had begun.
        let is_newer = |at: Instant| at >= since;
        let Evidence { doubt, deleted } = self.evidence();
        let doubt = doubt.filter(|doubt| is_newer(doubt.raised_at));
        self.set_evidence(Evidence { doubt, deleted: deleted.filter(|deleted| is_newer(*deleted)) });
        self.had_user.set(read.identity.user_id.is_some());
        if !read.missing {
            self.expires_at.set(read.lives_ms.map(|ms| since + Duration::from_millis(ms)));
        }
        self.replace(read);
        if doubt.is_some() { LeaseVerdict::Doubtful } else { LeaseVerdict::Valid }
    }

    /// Replaces the visitor; if its identity or flags differ, the connections reauthorize.
    fn replace(&self, read: &Visitor) {
        let mut known = self.visitor.borrow_mut();
        let differs = known.identity != read.identity || known.allowed != read.allowed;
        let read = read.clone();
        // Keep the old value if only the lifetime differs: its strings are shared with other leases.
        if *known == (Visitor { lives_ms: known.lives_ms, ..read.clone() }) {
            known.lives_ms = read.lives_ms;
        } else {
            *known = read;
        }
        drop(known);
        if differs {
            self.for_each_listener(Listener::reauthorize);
        }
    }

    fn evidence(&self) -> Evidence {
        with_content(&self.evidence, |evidence| evidence.as_deref().copied().unwrap_or_default())
    }

    fn set_evidence(&self, evidence: Evidence) {
        self.evidence.set((evidence != Evidence::default()).then(|| Box::new(evidence)));
    }

    /// Records a report that the session may have ended. Returns when its connections close if a read confirms it.
    pub(super) fn suspect(&self) -> Instant {
        let now = Instant::now();
        let confirmed = self.evidence().doubt.filter(|doubt| doubt.confirmed);
        // An earlier unconfirmed report was about something else: restart the delay.
        let closes_at = confirmed.map_or_else(|| now + close_delay(), |doubt| doubt.closes_at);
        self.set_evidence(Evidence {
            doubt: Some(Doubt { raised_at: now, closes_at, confirmed: confirmed.is_some() }),
            ..self.evidence()
        });
        closes_at
    }

    /// Records that a read found the session ended. Returns the time at which its connections close.
    fn confirm_doubt(&self) -> Instant {
        let now = Instant::now();
        let closes_at = self.evidence().doubt.map_or_else(|| now + close_delay(), |doubt| doubt.closes_at);
        self.set_evidence(Evidence {
            doubt: Some(Doubt { raised_at: now, closes_at, confirmed: true }),
            ..self.evidence()
        });
        closes_at
    }

    /// Returns the time at which the connections close if the doubt is true.
    pub(super) fn closes_at(&self) -> Instant {
        self.evidence().doubt.map_or_else(Instant::now, |doubt| doubt.closes_at)
    }

    /// Returns whether the session may have ended.
    pub(super) fn is_doubtful(&self) -> bool {
        self.evidence().doubt.is_some()
    }

    /// Records that the session was deleted.
    pub(super) fn record_deletion(&self) {
        self.set_evidence(Evidence { deleted: Some(Instant::now()), ..self.evidence() });
    }

    /// Returns whether a token or an answer of the callback has expired, which needs no second read.
    pub(super) fn has_expired(&self) -> bool {
        !matches!(*self.auth_source(), AuthSource::Session(_))
            && self.expires_at.get().is_some_and(|end| end <= Instant::now())
    }

    /// Returns when to revalidate next: at the expiry, or after `recheck` with jitter.
    pub(super) fn next_recheck(&self, recheck: Duration) -> Instant {
        let now = Instant::now();
        let recheck = recheck.min(MAX_RECHECK);
        let regular = now + recheck.mul_f32(1.0 - rand::random::<f32>() / 8.0);
        self.expires_at.get().map_or(regular, |end| regular.min(end + EXPIRY_MARGIN)).max(now + MIN_RECHECK)
    }

    /// Closes all connections. Those of version 2 decide themselves: the lease may be that of one facility.
    pub(super) fn end(&self, end: LeaseEnd) {
        self.ended.set(Some(end));
        self.for_each_listener(|listener| {
            if listener.form.has_objects() {
                listener.reauthorize();
            } else {
                listener.end(Ending::SessionEnded);
            }
        });
    }

    /// Returns why it has ended, if it has.
    pub(super) fn ended(&self) -> Option<LeaseEnd> {
        self.ended.get()
    }

    /// Returns the addresses of its connections' listeners in memory, which tell them apart.
    pub(super) fn listener_addresses(&self) -> Vec<usize> {
        with_content(&self.listeners, |listeners| {
            let open = listeners.iter().filter(|listener| listener.strong_count() > 0);
            open.map(|listener| listener.as_ptr().addr()).collect()
        })
    }

    fn for_each_listener(&self, action: impl Fn(&Listener)) {
        with_content(&self.listeners, |listeners| {
            listeners.iter().filter_map(Weak::upgrade).for_each(|listener| action(&listener));
        });
    }
}

/// Reads the content of a cell by taking it and putting it back, which saves the flag of a `RefCell`.
fn with_content<T: Default, R>(cell: &Cell<T>, read: impl FnOnce(&T) -> R) -> R {
    let content = cell.take();
    let result = read(&content);
    cell.set(content);
    result
}

fn close_delay() -> Duration {
    Duration::from_millis(rand::random_range(CLOSE_DELAY_MS))
}

#[cfg(test)]
mod tests {
    use tokio::time::advance;

    use super::*;
    use crate::access::{Groups, Identity};
    use crate::wire::SessionKey;

    fn john() -> Visitor {
        let key = SessionKey::new("key");
        let identity = Identity {
            session: Some(key.clone()),
            user_id: Some("7".into()),
            user: Some("john".into()),
            groups: Groups::default(),
        };
        Visitor {
            identity,
            auth_source: AuthSource::Session(key),
            lives_ms: Some(1_000_000),
            ..Visitor::default()
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_read_from_before_a_deletion_does_not_refute_it() {
        let before = Instant::now();
        let lease = Lease::new(john(), before);
        advance(Duration::from_millis(10)).await;
        lease.record_deletion();
        lease.suspect();
        assert_eq!(lease.apply_read(&john(), before), LeaseVerdict::Doubtful);
        advance(Duration::from_secs(2)).await;
        let missing = Visitor { missing: true, ..john() };
        assert_eq!(lease.apply_read(&missing, Instant::now()), LeaseVerdict::Ended);
    }

    #[tokio::test(start_paused = true)]
    async fn a_read_after_a_doubt_resolves_it() {
        let lease = Lease::new(john(), Instant::now());
        lease.record_deletion();
        lease.suspect();
        advance(Duration::from_millis(10)).await;
        assert_eq!(lease.apply_read(&john(), Instant::now()), LeaseVerdict::Valid);
        assert!(!lease.is_doubtful());
        let missing = Visitor { missing: true, ..john() };
        assert_eq!(
            lease.apply_read(&missing, Instant::now()),
            LeaseVerdict::Valid,
            "the cache may evict a copy"
        );
    }

    #[tokio::test(start_paused = true)]
    async fn a_missing_session_closes_after_the_delay_and_not_earlier() {
        let lease = Lease::new(john(), Instant::now());
        advance(Duration::from_millis(10)).await;
        assert_eq!(lease.apply_read(&Visitor::default(), Instant::now()), LeaseVerdict::Doubtful);
        advance(Duration::from_millis(900)).await;
        assert_eq!(lease.apply_read(&Visitor::default(), Instant::now()), LeaseVerdict::Doubtful);
        advance(Duration::from_millis(700)).await;
        assert_eq!(lease.apply_read(&Visitor::default(), Instant::now()), LeaseVerdict::Ended);
    }

    #[tokio::test(start_paused = true)]
    async fn an_invalidation_does_not_shorten_the_delay() {
        let lease = Lease::new(john(), Instant::now());
        lease.suspect();
        advance(Duration::from_millis(900)).await;
        let closes_at = lease.suspect();
        assert!(closes_at >= Instant::now() + Duration::from_secs(1));
        assert_eq!(lease.apply_read(&Visitor::default(), Instant::now()), LeaseVerdict::Doubtful);
        advance(Duration::from_millis(900)).await;
        assert_eq!(lease.suspect(), closes_at, "the end is confirmed");
        assert_eq!(lease.apply_read(&Visitor::default(), Instant::now()), LeaseVerdict::Doubtful);
        advance(Duration::from_millis(700)).await;
        assert_eq!(lease.apply_read(&Visitor::default(), Instant::now()), LeaseVerdict::Ended);
    }
}
