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

/// When sockets are closed after their session has ended, in milliseconds: by then a browser that has just logged in
/// has its new cookie, and not all of them come back together.
const SETTLE_MS: std::ops::RangeInclusive<u64> = 1_000..=1_500;

/// The shortest time until it is looked at again without a reason from outside.
const SOONEST: Duration = Duration::from_millis(200);

/// The longest time until it is looked at again: timers reach no further than some years.
const LONGEST: Duration = Duration::from_hours(24);

/// What an end that is foreseen is looked at late by: Redis counts it in milliseconds, too.
const LATE: Duration = Duration::from_millis(5);

/// The identity of one visitor, shared by its connections.
pub(super) struct Lease {
    /// What the Django package calls the session.
    pub(super) digest: Option<SessionDigest>,
    /// What was read last, always from the same source.
    pub(super) visitor: RefCell<Visitor>,
    /// Whether somebody was logged in.
    had_user: Cell<bool>,
    /// Most have one: each page of a visitor has a socket, and many have one page.
    listeners: Cell<SmallVec<[Weak<Listener>; 1]>>,
    /// Sockets that live by it.
    shares: Cell<u32>,
    /// When the last reading began.
    pub(super) since: Cell<Instant>,
    /// What looks at it next.
    pub(super) timer: Cell<Option<Key>>,
    pub(super) reading: Cell<bool>,
    /// When it ends, as far as is known.
    ends_at: Cell<Option<Instant>>,
    /// What is said against it. Boxed, as most often there is nothing.
    trouble: Cell<Option<Box<Trouble>>>,
    over: Cell<bool>,
    /// The subscription that tells of its key.
    watch: Cell<Option<Subscription>>,
}

/// What is said against it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Trouble {
    /// Whether it seems to have ended.
    doubt: Option<Doubt>,
    /// When it was said that the session was ended on purpose. What was read before says nothing against it.
    deleted: Option<Instant>,
}

/// What makes it seem to have ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Doubt {
    /// When that was last said, or found. What is read from then on counts.
    said: Instant,
    /// When the sockets are closed, if it is so.
    closes_at: Instant,
    /// Whether a reading has found it so.
    found: bool,
}

/// What a reading means for the sockets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verdict {
    /// They stay.
    Holds,
    /// They stay for a moment, until it is certain.
    Doubtful,
    /// They are closed.
    Ended,
}

impl Lease {
    pub(super) fn new(visitor: Visitor, since: Instant) -> Self {
        let ends_at = visitor.lives_ms.map(|ms| since + Duration::from_millis(ms));
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
            ends_at: Cell::new(ends_at),
            trouble: Cell::default(),
            over: Cell::default(),
            watch: Cell::default(),
        }
    }

    /// Notes a socket, and the subscription that tells of the key, if it has brought one.
    pub(super) fn add(&self, listener: &Rc<Listener>, watch: Option<Subscription>) {
        self.shares.set(self.shares.get() + 1);
        let mut listeners = self.listeners.take();
        if listeners.len() > 2 * self.sockets() {
            listeners.retain(|listener| listener.strong_count() > 0);
            listeners.shrink_to_fit();
        }
        listeners.push(Rc::downgrade(listener));
        self.listeners.set(listeners);
        if watch.is_some() {
            self.watch_by(watch);
        }
    }

    /// Takes the subscription that tells of the key. Nothing is listened to: what is told arrives as an event.
    pub(super) fn watch_by(&self, watch: Option<Subscription>) {
        watch.iter().for_each(Subscription::silence);
        self.watch.set(watch);
    }

    /// Takes leave of a socket. Returns true for the last one.
    pub(super) fn leave(&self) -> bool {
        self.shares.set(self.shares.get() - 1);
        self.shares.get() == 0
    }

    pub(super) fn is_used(&self) -> bool {
        self.shares.get() > 0
    }

    pub(super) fn sockets(&self) -> usize {
        self.shares.get() as usize
    }

    pub(super) fn is_over(&self) -> bool {
        self.over.get() || !self.is_used()
    }

    pub(super) fn has_watch(&self) -> bool {
        look_into(&self.watch, Option::is_some)
    }

    pub(super) fn is_watched(&self) -> bool {
        look_into(&self.watch, |watch| watch.as_ref().is_some_and(Subscription::is_subscribed))
    }

    /// Returns by what the visitor is known.
    pub(super) fn auth_source(&self) -> Ref<'_, AuthSource> {
        Ref::map(self.visitor.borrow(), |visitor| &visitor.auth_source)
    }

    /// Takes a reading that began then, and says what it means.
    pub(super) fn judge(&self, read: &Visitor, since: Instant) -> Verdict {
        let now = Instant::now();
        self.since.set(since);
        // A copy may be missing while the session goes on, but not beyond its time, nor if it was deleted.
        let over = self.trouble().deleted.is_some() || self.ends_at.get().is_some_and(|end| end <= now);
        let identity = &read.identity;
        let nobody = identity.user_id.is_none() && identity.session.is_none();
        let had_session = self.visitor.borrow().identity.session.is_some();
        let gone = !read.is_known() || (read.missing && over) || (nobody && had_session);
        let without_user = self.had_user.get() && identity.user_id.is_none();
        if gone || without_user {
            let closes_at = self.doubt();
            if now >= closes_at || self.ends_by_itself() {
                return Verdict::Ended;
            }
            if !gone {
                // The session is there, and its user is not: what is only for that user stops at once.
                self.replace(read);
            }
            return Verdict::Doubtful;
        }
        // What was said after the reading had begun is not in it.
        let newer = |said: Instant| said >= since;
        let Trouble { doubt, deleted } = self.trouble();
        let doubt = doubt.filter(|doubt| newer(doubt.said));
        self.set_trouble(Trouble { doubt, deleted: deleted.filter(|deleted| newer(*deleted)) });
        self.had_user.set(read.identity.user_id.is_some());
        if !read.missing {
            self.ends_at.set(read.lives_ms.map(|ms| since + Duration::from_millis(ms)));
        }
        self.replace(read);
        if doubt.is_some() { Verdict::Doubtful } else { Verdict::Holds }
    }

    /// Replaces what is known; sockets for which that makes a difference look at what they may hear and say.
    fn replace(&self, read: &Visitor) {
        let mut known = self.visitor.borrow_mut();
        let differs = known.identity != read.identity || known.allowed != read.allowed;
        let read = read.clone();
        // What has not changed stays, for the texts that it shares with the rest.
        if *known == (Visitor { lives_ms: known.lives_ms, ..read.clone() }) {
            known.lives_ms = read.lives_ms;
        } else {
            *known = read;
        }
        drop(known);
        if differs {
            self.each(Listener::reauthorize);
        }
    }

    fn trouble(&self) -> Trouble {
        look_into(&self.trouble, |trouble| trouble.as_deref().copied().unwrap_or_default())
    }

    fn set_trouble(&self, trouble: Trouble) {
        self.trouble.set((trouble != Trouble::default()).then(|| Box::new(trouble)));
    }

    /// Notes that somebody says that it may have ended. Returns when it is certain, if it has.
    pub(super) fn suspect(&self) -> Instant {
        let now = Instant::now();
        let found = self.trouble().doubt.filter(|doubt| doubt.found);
        // Whatever was said before, and not found to be so, was about something else.
        let closes_at = found.map_or_else(|| now + settle(), |doubt| doubt.closes_at);
        self.set_trouble(Trouble {
            doubt: Some(Doubt { said: now, closes_at, found: found.is_some() }),
            ..self.trouble()
        });
        closes_at
    }

    /// Notes that it was found to have ended. Returns when it is certain.
    fn doubt(&self) -> Instant {
        let now = Instant::now();
        let closes_at = self.trouble().doubt.map_or_else(|| now + settle(), |doubt| doubt.closes_at);
        self.set_trouble(Trouble {
            doubt: Some(Doubt { said: now, closes_at, found: true }),
            ..self.trouble()
        });
        closes_at
    }

    /// Returns when it is certain whether it has ended.
    pub(super) fn closes_at(&self) -> Instant {
        self.trouble().doubt.map_or_else(Instant::now, |doubt| doubt.closes_at)
    }

    /// Tells whether it seems to have ended.
    pub(super) fn is_doubtful(&self) -> bool {
        self.trouble().doubt.is_some()
    }

    /// Notes that the session was ended on purpose.
    pub(super) fn note_deletion(&self) {
        self.set_trouble(Trouble { deleted: Some(Instant::now()), ..self.trouble() });
    }

    /// Tells whether its end has come, and needs no second look.
    pub(super) fn ends_by_itself(&self) -> bool {
        !matches!(*self.auth_source(), AuthSource::Session(_))
            && self.ends_at.get().is_some_and(|end| end <= Instant::now())
    }

    /// Returns when to look next: when it ends, or after this time (with jitter).
    pub(super) fn due(&self, recheck: Duration) -> Instant {
        let now = Instant::now();
        let recheck = recheck.min(LONGEST);
        let regular = now + recheck.mul_f32(1.0 - rand::random::<f32>() / 8.0);
        self.ends_at.get().map_or(regular, |end| regular.min(end + LATE)).max(now + SOONEST)
    }

    /// Closes all sockets.
    pub(super) fn end(&self) {
        self.over.set(true);
        self.each(|listener| listener.end(Ending::SessionEnded));
    }

    fn each(&self, action: impl Fn(&Listener)) {
        look_into(&self.listeners, |listeners| {
            listeners.iter().filter_map(Weak::upgrade).for_each(|listener| action(&listener));
        });
    }
}

/// Looks at what lies in a cell. Unlike a `RefCell` that costs no room.
fn look_into<T: Default, R>(cell: &Cell<T>, look: impl FnOnce(&T) -> R) -> R {
    let content = cell.take();
    let seen = look(&content);
    cell.set(content);
    seen
}

fn settle() -> Duration {
    Duration::from_millis(rand::random_range(SETTLE_MS))
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
    async fn what_was_read_before_a_deletion_says_nothing_against_it() {
        let before = Instant::now();
        let lease = Lease::new(john(), before);
        advance(Duration::from_millis(10)).await;
        lease.note_deletion();
        lease.suspect();
        assert_eq!(lease.judge(&john(), before), Verdict::Doubtful);
        advance(Duration::from_secs(2)).await;
        let missing = Visitor { missing: true, ..john() };
        assert_eq!(lease.judge(&missing, Instant::now()), Verdict::Ended);
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_read_after_a_doubt_ends_it() {
        let lease = Lease::new(john(), Instant::now());
        lease.note_deletion();
        lease.suspect();
        advance(Duration::from_millis(10)).await;
        assert_eq!(lease.judge(&john(), Instant::now()), Verdict::Holds);
        assert!(!lease.is_doubtful());
        let missing = Visitor { missing: true, ..john() };
        assert_eq!(lease.judge(&missing, Instant::now()), Verdict::Holds, "a copy may be missing");
    }

    #[tokio::test(start_paused = true)]
    async fn who_is_gone_ends_after_a_moment_and_not_before() {
        let lease = Lease::new(john(), Instant::now());
        advance(Duration::from_millis(10)).await;
        assert_eq!(lease.judge(&Visitor::default(), Instant::now()), Verdict::Doubtful);
        advance(Duration::from_millis(900)).await;
        assert_eq!(lease.judge(&Visitor::default(), Instant::now()), Verdict::Doubtful);
        advance(Duration::from_millis(700)).await;
        assert_eq!(lease.judge(&Visitor::default(), Instant::now()), Verdict::Ended);
    }

    #[tokio::test(start_paused = true)]
    async fn a_hint_about_something_else_does_not_hasten_an_end() {
        let lease = Lease::new(john(), Instant::now());
        lease.suspect();
        advance(Duration::from_millis(900)).await;
        let closes_at = lease.suspect();
        assert!(closes_at >= Instant::now() + Duration::from_secs(1));
        assert_eq!(lease.judge(&Visitor::default(), Instant::now()), Verdict::Doubtful);
        advance(Duration::from_millis(900)).await;
        assert_eq!(lease.suspect(), closes_at, "it was found to have ended");
        assert_eq!(lease.judge(&Visitor::default(), Instant::now()), Verdict::Doubtful);
        advance(Duration::from_millis(700)).await;
        assert_eq!(lease.judge(&Visitor::default(), Instant::now()), Verdict::Ended);
    }
}
