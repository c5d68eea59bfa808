//! The groups that Django has joined users to: read when a socket of a user opens, and when Django says that they have changed.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use foldhash::fast::RandomState;
use slab::Slab;
use tokio::sync::Notify;
use tokio::time::{Instant, sleep, timeout_at};
use tracing::warn;

use crate::hub::Listener;
use crate::redis::error_reply::ErrorClass;
use crate::redis::{CommandClient, CommandFailure, CommandReply, ReplyValue};
use crate::telemetry::LogThrottle;
use crate::wire::Namespace;

/// Most groups of one user.
const MAX_GROUPS: usize = 1_000;

/// Users that are read together.
const MAX_READ: usize = 200;

/// Pause before all users are read again after Redis has refused to read some.
const REFUSED_PAUSE: Duration = Duration::from_secs(30);

/// Pause before users are read again after Redis was lost.
const RETRY_PAUSE: Duration = Duration::from_millis(500);

/// The groups of the users that have sockets on this shard.
pub struct JoinedGroups {
    users: RefCell<HashMap<Arc<str>, Rc<UserGroups>, RandomState>>,
    /// Users that have to be read.
    stale: RefCell<Vec<Rc<UserGroups>>>,
    changed: Notify,
    commands: Rc<CommandClient>,
    namespace: Namespace,
    refused: LogThrottle,
    /// When users are read again, if Redis has refused some.
    retry_at: Cell<Option<Instant>>,
    too_many: LogThrottle,
}

struct UserGroups {
    id: Arc<str>,
    names: RefCell<Rc<[Box<str>]>>,
    /// It is in the list of those that have to be read.
    is_stale: Cell<bool>,
    /// How often a read has begun, and the number of the latest that has ended.
    begun: Cell<u64>,
    ended: Cell<u64>,
    read: Notify,
    /// The sockets of the user; none for one that is not open yet.
    holders: RefCell<Slab<Option<Rc<Listener>>>>,
}

/// A socket's interest in the groups of its user. Dropping it ends the interest.
pub struct JoinedHold {
    groups: Rc<JoinedGroups>,
    user: Rc<UserGroups>,
    slot: usize,
    /// The number of the first read that has begun after this was created.
    first_read: u64,
}

impl JoinedGroups {
    pub(super) fn new(commands: Rc<CommandClient>, namespace: Namespace) -> Rc<Self> {
        Rc::new(Self {
            users: RefCell::default(),
            stale: RefCell::default(),
            changed: Notify::new(),
            commands,
            namespace,
            refused: LogThrottle::default(),
            retry_at: Cell::default(),
            too_many: LogThrottle::default(),
        })
    }

    /// Begins to follow the groups of a user, by its primary key, and reads them.
    pub fn hold(self: &Rc<Self>, id: &Arc<str>) -> JoinedHold {
        let user = self.users.borrow_mut().entry(id.clone()).or_insert_with(|| UserGroups::new(id)).clone();
        self.mark(&user);
        let slot = user.holders.borrow_mut().insert(None);
        let first_read = user.begun.get() + 1;
        JoinedHold { groups: self.clone(), user, slot, first_read }
    }

    /// Reads the groups of a user again, if it has sockets here.
    pub fn changed(&self, id: &str) {
        let user = self.users.borrow().get(id).cloned();
        if let Some(user) = user {
            self.mark(&user);
        }
    }

    /// Reads all groups again: Django's hints may have been missed.
    pub fn missed(&self) {
        self.users.borrow().values().for_each(|user| self.mark(user));
    }

    fn mark(&self, user: &Rc<UserGroups>) {
        if !user.is_stale.replace(true) {
            self.stale.borrow_mut().push(user.clone());
            self.changed.notify_one();
        }
    }

    /// Reads the groups of users that have changed, until the task is aborted.
    pub async fn run(self: Rc<Self>) {
        loop {
            let users = {
                let mut stale = self.stale.borrow_mut();
                let rest = stale.len().saturating_sub(MAX_READ);
                stale.split_off(rest)
            };
            if users.is_empty() {
                let changed = self.changed.notified();
                let Some(retry_at) = self.retry_at.get() else {
                    changed.await;
                    continue;
                };
                if timeout_at(retry_at, changed).await.is_err() {
                    self.retry_at.set(None);
                    self.missed();
                }
                continue;
            }
            self.commands.until_up().await;
            if !self.read(&users).await {
                for user in &users {
                    self.mark(user);
                }
                sleep(RETRY_PAUSE).await;
            }
        }
    }

    /// Reads the groups of users. Returns whether Redis has answered.
    async fn read(&self, users: &[Rc<UserGroups>]) -> bool {
        let mut batch = self.commands.batch();
        let count = MAX_GROUPS.to_string();
        for user in users {
            user.is_stale.set(false);
            user.begun.set(user.begun.get() + 1);
            let key = self.namespace.own(&format!("groups:{}", user.id));
            // Bounded, unlike SMEMBERS.
            batch.add("SSCAN", &[key.as_bytes(), b"0", b"COUNT", count.as_bytes()]);
        }
        let mut is_answered = true;
        let replies = self.commands.send(batch).await;
        for (user, reply) in users.iter().zip(replies) {
            match reply {
                Ok(CommandReply::Other(reply)) => {
                    if has_more(&reply)
                        && let Some(suppressed) = self.too_many.allow()
                    {
                        warn!(user = %user.id, suppressed, "a user is in more than {MAX_GROUPS} Channels groups; its sockets hear {MAX_GROUPS} of them. Remove some with ws4redis.groups.discard");
                    }
                    user.set(names_of(&reply));
                }
                // It keeps the groups that it has.
                Err(CommandFailure::Refused(reason)) if is_passing(&reason) => is_answered = false,
                Err(CommandFailure::Refused(reason)) => {
                    if let Some(suppressed) = self.refused.allow() {
                        warn!(%reason, suppressed, "redis refuses to read the Channels groups of users; their sockets hear none of them. Allow SSCAN of ws4redis:groups:*");
                    }
                    self.retry_at.set(Some(Instant::now() + REFUSED_PAUSE));
                    user.set(Rc::default());
                }
                Ok(_) | Err(_) => is_answered = false,
            }
        }
        is_answered
    }
}

/// Returns whether Redis will execute the refused command later.
fn is_passing(reason: &str) -> bool {
    matches!(ErrorClass::of(reason), ErrorClass::Temporary | ErrorClass::NotMaster)
}

/// Returns whether a reply of SSCAN leaves members out.
fn has_more(reply: &ReplyValue) -> bool {
    let [cursor, members] = reply.list() else { return false };
    cursor.text() != Some("0") || members.list().len() > MAX_GROUPS
}

/// Returns the members in a reply of SSCAN, in order.
fn names_of(reply: &ReplyValue) -> Rc<[Box<str>]> {
    let members = reply.list().get(1).map_or(&[][..], ReplyValue::list);
    let mut names: Vec<Box<str>> = members.iter().filter_map(ReplyValue::text).map(Into::into).collect();
    names.sort_unstable();
    names.dedup();
    names.truncate(MAX_GROUPS);
    names.into()
}

impl UserGroups {
    fn new(id: &Arc<str>) -> Rc<Self> {
        Rc::new(Self {
            id: id.clone(),
            names: RefCell::default(),
            is_stale: Cell::default(),
            begun: Cell::default(),
            ended: Cell::default(),
            read: Notify::new(),
            holders: RefCell::default(),
        })
    }

    /// Takes the groups that were read. If they have changed, the open sockets apply them.
    fn set(&self, names: Rc<[Box<str>]>) {
        let is_same = **self.names.borrow() == *names;
        self.ended.set(self.begun.get());
        if !is_same {
            *self.names.borrow_mut() = names;
            let holders = self.holders.borrow();
            holders
                .iter()
                .filter_map(|(_, holder)| holder.as_ref())
                .for_each(|listener| listener.reauthorize());
        }
        self.read.notify_waiters();
    }
}

impl JoinedHold {
    /// Returns the primary key of the user.
    pub fn user_id(&self) -> &Arc<str> {
        &self.user.id
    }

    /// Waits until the groups have been read since this was created. Safe to cancel.
    pub async fn read(&self) {
        loop {
            let notified = self.user.read.notified();
            if self.user.ended.get() >= self.first_read {
                return;
            }
            notified.await;
        }
    }

    /// Returns the names of the groups that were read last.
    pub fn names(&self) -> Rc<[Box<str>]> {
        self.user.names.borrow().clone()
    }

    /// Makes an open socket apply each change. `applied` has the names that it has applied.
    pub fn attach(&self, listener: &Rc<Listener>, applied: &[Box<str>]) {
        if let Some(holder) = self.user.holders.borrow_mut().get_mut(self.slot) {
            *holder = Some(listener.clone());
        }
        if **self.user.names.borrow() != *applied {
            listener.reauthorize();
        }
    }
}

impl Drop for JoinedHold {
    fn drop(&mut self) {
        let mut holders = self.user.holders.borrow_mut();
        holders.try_remove(self.slot);
        if holders.is_empty() {
            self.groups.users.borrow_mut().remove(&self.user.id);
        }
    }
}
