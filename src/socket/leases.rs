//! How long an identity holds: sockets whose session has ended, or has become somebody else's, are closed.
//!
//! Each session that has open sockets is read again when its time to live is over, and now and then before that, since
//! Redis does not say when a session is deleted, rewritten, or overruled by what is known of its user.

use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::{Rc, Weak};

use foldhash::fast::RandomState;
use tracing::debug;

use crate::access::Identity;
use crate::hub::{Ending, Listener};
use crate::reception::{Proof, Reception, Visitor};
use crate::wire::SessionKey;

/// The sessions of a shard's open sockets.
#[derive(Default)]
pub struct Leases {
    sessions: RefCell<HashMap<SessionKey, Lease, RandomState>>,
}

/// One session.
struct Lease {
    identity: Identity,
    listeners: Vec<Weak<Listener>>,
    /// The shard's second in which it is read again.
    due: u32,
    /// How many sockets were added: each brought what had just been read.
    added: u32,
}

/// Seconds after which a session that is being read again counts as due once more.
const RETRY_SECONDS: u32 = 10;

impl Leases {
    /// Notes a socket of a session. `recheck_seconds` is the longest time until the session is read again.
    pub fn add(&self, visitor: Visitor, listener: &Rc<Listener>, now: u32, recheck_seconds: u32) {
        let Some(key) = visitor.identity.session.clone() else { return };
        let due = due(&visitor, now, recheck_seconds);
        let mut sessions = self.sessions.borrow_mut();
        let lease = sessions.entry(key).or_insert_with(|| Lease {
            identity: visitor.identity.clone(),
            listeners: Vec::new(),
            due,
            added: 0,
        });
        lease.added = lease.added.wrapping_add(1);
        // It has just been read; sockets that were let in as somebody else do not stay.
        if lease.identity != visitor.identity {
            lease.end();
            lease.identity = visitor.identity;
        }
        lease.due = due;
        lease.listeners.retain(|listener| listener.strong_count() > 0);
        lease.listeners.push(Rc::downgrade(listener));
    }

    /// Returns the sessions that are to be read again now, and forgets those without sockets.
    pub fn due(&self, now: u32) -> Vec<SessionKey> {
        let mut due = Vec::new();
        self.sessions.borrow_mut().retain(|key, lease| {
            if lease.due > now {
                return true;
            }
            lease.listeners.retain(|listener| listener.strong_count() > 0);
            if !lease.listeners.is_empty() {
                due.push(key.clone());
                lease.due = now + RETRY_SECONDS;
            }
            !lease.listeners.is_empty()
        });
        due
    }

    /// Reads a session again. If it has ended, or is somebody else's, its sockets are closed.
    pub async fn renew(
        &self,
        key: &SessionKey,
        reception: &Reception,
        clock: impl Fn() -> u32,
        recheck_seconds: u32,
    ) {
        let added = |sessions: &HashMap<_, Lease, _>| sessions.get(key).map(|lease| lease.added);
        let before = added(&self.sessions.borrow());
        let read = reception.again(&Proof::Session(key.clone())).await;
        let mut sessions = self.sessions.borrow_mut();
        // What a socket brought meanwhile is newer than this reading.
        if added(&sessions) != before {
            return;
        }
        let Some(lease) = sessions.get_mut(key) else { return };
        // A Redis that is lost says nothing about sessions; it is asked again in a second.
        let Ok(visitor) = read else {
            lease.due = clock() + 1;
            return;
        };
        if visitor.identity == lease.identity {
            lease.due = due(&visitor, clock(), recheck_seconds);
            return;
        }
        debug!(sockets = lease.listeners.len(), "session ended or changed");
        lease.end();
        sessions.remove(key);
    }
}

impl Lease {
    fn end(&mut self) {
        for listener in self.listeners.drain(..).filter_map(|listener| listener.upgrade()) {
            listener.end(Ending::SessionEnded);
        }
    }
}

/// A moment after the end of the session, if that is soon; else after the usual time.
fn due(visitor: &Visitor, now: u32, recheck_seconds: u32) -> u32 {
    let lives = visitor.lives_ms.map_or(u32::MAX, |ms| u32::try_from(ms / 1000).unwrap_or(u32::MAX));
    now + lives.saturating_add(1).min(recheck_seconds)
}
