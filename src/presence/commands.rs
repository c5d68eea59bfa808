//! The commands that write entries. Each has one key, so that a cluster finds its node.

use std::collections::HashSet;
use std::time::{SystemTime, UNIX_EPOCH};

use super::table::{Action, EntryKey, EntryWrite};
use crate::redis::CommandBatch;
use crate::wire::{Namespace, NodeId};

/// Digits of the gateway's id in the members of facilities.
const GATEWAY_DIGITS: usize = 12;

/// Seconds after the last write for which the key of the site's users stays: a gateway that starts within them declares
/// those offline who were online when the last one was killed.
const USERS_LIFETIME: u32 = 24 * 60 * 60;

/// Most members of one command.
pub(super) const MAX_MEMBERS: usize = 500;

/// The names of the keys, and of this gateway in them.
pub(super) struct PresenceKeys {
    namespace: Namespace,
    gateway: String,
}

impl PresenceKeys {
    pub(super) fn new(namespace: &Namespace, node: NodeId) -> Self {
        let mut gateway = node.to_string();
        gateway.truncate(GATEWAY_DIGITS);
        Self { namespace: namespace.clone(), gateway }
    }

    /// Returns the key of the site's users.
    pub(super) fn users(&self) -> String {
        self.namespace.own("online")
    }

    /// Returns the key of a user's connections.
    pub(super) fn user(&self, user: &str) -> String {
        self.namespace.own(&format!("online:{user}"))
    }

    fn facility(&self, facility: &str) -> String {
        Self::facility_key(&self.namespace, facility)
    }

    /// Returns the key of the visitors of a facility.
    pub(super) fn facility_key(namespace: &Namespace, facility: &str) -> String {
        namespace.own(&format!("presence:{facility}"))
    }

    /// Returns the channel on which changes of a facility are told.
    pub(super) fn facility_channel(namespace: &Namespace, facility: &str) -> String {
        namespace.own(&format!("visitors:{facility}"))
    }

    /// Returns the member for a user of a facility.
    fn visitor(&self, user: &str) -> String {
        format!("{}/{user}", self.gateway)
    }

    /// Returns the member for the anonymous visitors of a facility. A user's never has this character here.
    fn anonymous(&self, count: u32) -> String {
        format!("{}#{count}", self.gateway)
    }
}

/// Returns the seconds since 1970.
pub(super) fn now() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64()
}

/// Returns a time as a score.
pub(super) fn score(time: f64) -> String {
    format!("{time:.3}")
}

/// Returns the end of a range that has the scores before a time.
pub(super) fn before(time: f64) -> String {
    format!("({time:.3}")
}

/// Encodes writes that need no decision.
pub(super) struct WriteEncoder<'a> {
    keys: &'a PresenceKeys,
    batch: CommandBatch,
    commands: usize,
    now: f64,
    /// Keys that have their EXPIRE, and those without their stale members.
    expiring: HashSet<String>,
    pruned: HashSet<String>,
    /// The channels on which changes of facilities are told; none if nobody listens to them.
    changed: Option<HashSet<String>>,
}

/// The replies to one write.
pub(super) struct ReplyRange {
    pub(super) commands: std::ops::Range<usize>,
    /// The reply that is 1 if Redis did not have the user.
    pub(super) is_new: Option<usize>,
}

impl<'a> WriteEncoder<'a> {
    /// `tells`: other gateways are told which facilities have changed.
    pub(super) fn new(keys: &'a PresenceKeys, batch: CommandBatch, tells: bool) -> Self {
        let (expiring, pruned) = (HashSet::new(), HashSet::new());
        let changed = tells.then(HashSet::new);
        Self { keys, batch, commands: 0, now: now(), expiring, pruned, changed }
    }

    pub(super) fn finish(mut self) -> CommandBatch {
        // Behind the changes, which a gateway reads when it gets the message.
        for channel in self.changed.take().into_iter().flatten() {
            self.add("PUBLISH", &[&channel, "changed"]);
        }
        self.batch
    }

    fn add(&mut self, name: &'static str, arguments: &[&str]) {
        let arguments: Vec<&[u8]> = arguments.iter().map(|argument| argument.as_bytes()).collect();
        self.batch.add(name, &arguments);
        self.commands += 1;
    }

    /// Appends the commands of a write.
    pub(super) fn push(&mut self, write: &EntryWrite) -> ReplyRange {
        let start = self.commands;
        let until = score(self.now + f64::from(write.seconds));
        let mut is_new = None;
        match (&write.key, &write.action) {
            (EntryKey::Online(user), Action::Keep { added, removed, is_refresh, .. }) => {
                let key = self.keys.user(user);
                // New ones first: without any, another gateway would take the user for offline.
                for ids in added.chunks(MAX_MEMBERS) {
                    let pairs = ids.iter().flat_map(|id| [until.as_str(), id]);
                    self.add("ZADD", &std::iter::once(key.as_str()).chain(pairs).collect::<Vec<_>>());
                }
                for ids in removed.chunks(MAX_MEMBERS) {
                    let ids = ids.iter().map(|id| &**id);
                    self.add("ZREM", &std::iter::once(key.as_str()).chain(ids).collect::<Vec<_>>());
                }
                if *is_refresh {
                    self.prune(&key);
                }
                if !added.is_empty() {
                    let users = self.keys.users();
                    self.expire(&key, write.seconds.saturating_mul(2));
                    is_new = Some(self.commands);
                    self.add("ZADD", &[&users, &until, user]);
                    self.expire(&users, USERS_LIFETIME);
                }
            }
            (EntryKey::Visitor(facility, user), Action::Keep { is_refresh, .. }) => {
                let (key, member) = (self.keys.facility(facility), self.keys.visitor(user));
                self.keep(&key, &member, &until, write.seconds, *is_refresh);
                self.tell_unless(*is_refresh, facility);
            }
            (EntryKey::Visitor(facility, user), Action::Leave { .. }) => {
                let key = self.keys.facility(facility);
                self.add("ZREM", &[&key, &self.keys.visitor(user)]);
                self.tell_unless(false, facility);
            }
            (EntryKey::Anonymous(facility), Action::Count { before, now, is_refresh }) => {
                let key = self.keys.facility(facility);
                for number in before {
                    self.add("ZREM", &[&key, &self.keys.anonymous(*number)]);
                }
                if *now > 0 {
                    self.keep(&key, &self.keys.anonymous(*now), &until, write.seconds, *is_refresh);
                }
                self.tell_unless(*is_refresh, facility);
            }
            // Users leave by a script, and the other pairs do not exist.
            _ => {}
        }
        ReplyRange { commands: start..self.commands, is_new }
    }

    fn tell_unless(&mut self, is_refresh: bool, facility: &str) {
        if let Some(changed) = self.changed.as_mut().filter(|_| !is_refresh) {
            changed.insert(PresenceKeys::facility_channel(&self.keys.namespace, facility));
        }
    }

    fn keep(&mut self, key: &str, member: &str, until: &str, seconds: u32, is_refresh: bool) {
        self.add("ZADD", &[key, until, member]);
        if is_refresh {
            self.prune(key);
        }
        self.expire(key, seconds.saturating_mul(2));
    }

    /// Removes the entries of gateways that have ended.
    fn prune(&mut self, key: &str) {
        if self.pruned.insert(key.to_owned()) {
            self.add("ZREMRANGEBYSCORE", &[key, "-inf", &before(self.now)]);
        }
    }

    /// Lets a key outlive its entries, so that another gateway can find out who has gone.
    fn expire(&mut self, key: &str, seconds: u32) {
        if self.expiring.insert(key.to_owned()) {
            self.add("EXPIRE", &[key, &seconds.to_string()]);
        }
    }
}
