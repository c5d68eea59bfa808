//! The task that writes entries to Redis: what has changed at once, everything again every third of its time.

use std::cell::Cell;
use std::collections::HashSet;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, sleep, sleep_until, timeout};
use tracing::debug;

use super::attendance::{Presence, SharedPresence};
use super::commands::{PresenceKeys, WriteEncoder, before, now};
use super::departure::{Departure, Departures, Leaver, is_passing};
use super::table::{Action, EntryKey, EntryWrite, GRACE};
use crate::redis::error_reply::ErrorClass;
use crate::redis::{CommandClient, CommandFailure, CommandReply, Store};
use crate::wire::{Namespace, NodeId};

/// Most entries of one pipeline.
const MAX_WRITES: usize = 200;

/// Time within which changes are written together: a user and its facilities come and go within a moment, and each pipeline
/// costs Redis more than the commands in it.
const TOGETHER: Duration = Duration::from_millis(50);

/// Most stale users that are read together, and how often in a row.
const MAX_STALE: usize = 100;
const MAX_STALE_ROUNDS: usize = 10;

/// First pause after Redis was lost, and the longest.
const FIRST_PAUSE: Duration = Duration::from_millis(500);
const LONGEST_PAUSE: Duration = Duration::from_secs(10);

/// Time for the last writes of a process that ends.
const FINISH_TIMEOUT: Duration = Duration::from_secs(1);

/// A user has come or gone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PresenceChange {
    /// The user has a first connection, over all gateways.
    Online,
    /// The user has had none since the grace.
    Offline,
}

/// Redis was lost, or refuses commands at the moment; what was not written is in the table.
struct WriteLost;

/// Writes the entries of this process.
pub struct PresenceWriter<F> {
    shared: Arc<SharedPresence>,
    commands: Rc<CommandClient>,
    keys: Rc<PresenceKeys>,
    departures: Departures,
    /// Announces users.
    announce: F,
    /// Nobody is declared offline before: after a loss of Redis, the other gateways write their users first.
    decides_from: Cell<Instant>,
}

impl<F: Fn(&str, PresenceChange)> PresenceWriter<F> {
    /// Creates the writer, unless nothing is counted. It uses the connection of a store, and passes to `announce` which users
    /// come and go.
    pub fn new(
        presence: &Presence,
        store: &Store,
        namespace: &Namespace,
        node: NodeId,
        announce: F,
    ) -> Option<Rc<Self>> {
        let keys = Rc::new(PresenceKeys::new(namespace, node));
        let commands = store.commands();
        Some(Rc::new(Self {
            shared: presence.shared()?.clone(),
            departures: Departures::new(commands.clone(), keys.clone()),
            commands,
            keys,
            announce,
            decides_from: Cell::new(Instant::now()),
        }))
    }

    /// Writes until the task is aborted. Waits for changes, for the end of the next grace and for the next refresh.
    pub async fn run(self: Rc<Self>) {
        let interval = self.interval();
        let mut refresh_at = Instant::now() + interval;
        let mut pause = FIRST_PAUSE;
        let mut must_repeat = false;
        loop {
            let (next_leave, must_rewrite) = {
                let table = self.shared.table();
                (table.next_leave(), table.must_rewrite)
            };
            if !must_rewrite && !must_repeat {
                let leave_at = next_leave.map(|at| (at + TOGETHER).max(self.decides_from.get()));
                let wake_at = leave_at.map_or(refresh_at, |at| at.min(refresh_at));
                tokio::select! {
                    () = self.shared.changed.notified() => sleep(TOGETHER).await,
                    () = sleep_until(wake_at) => {}
                }
            }
            self.commands.until_up().await;
            must_repeat = self.turn(&mut refresh_at).await.is_err();
            if must_repeat {
                debug!("Redis did not execute all commands of presence; they are sent again");
                sleep(pause).await;
                pause = (pause * 2).min(LONGEST_PAUSE);
            } else {
                pause = FIRST_PAUSE;
            }
        }
    }

    /// Entries are refreshed after a third of the shortest time for which they are valid.
    fn interval(&self) -> Duration {
        Duration::from_secs(self.shared.rules.user_seconds.into()) / 3
    }

    /// Returns whether commands were lost, or ends the turn. In a cluster the turn goes on: one lost node is no reason to let
    /// the others wait, and the table repeats what was lost.
    fn note_lost(&self, result: Result<(), WriteLost>) -> Result<bool, WriteLost> {
        match result {
            Err(WriteLost) if self.commands.is_cluster() => Ok(true),
            result => result.map(|()| false),
        }
    }

    async fn turn(&self, refresh_at: &mut Instant) -> Result<(), WriteLost> {
        let mut is_lost = false;
        if std::mem::take(&mut self.shared.table().must_rewrite) {
            let refreshed = self.note_lost(self.refresh(None).await);
            is_lost |= refreshed.inspect_err(|_| self.shared.table().must_rewrite = true)?;
            self.decides_from.set(Instant::now() + GRACE);
            *refresh_at = Instant::now() + self.interval();
        }
        is_lost |= self.note_lost(self.write_changes().await)?;
        let decides = Instant::now() >= self.decides_from.get();
        if decides {
            is_lost |= self.note_lost(self.end_left().await)?;
        }
        if Instant::now() >= *refresh_at {
            *refresh_at = Instant::now() + self.interval();
            // Half a turn, so that no entry waits for the turn after the next.
            is_lost |= self.note_lost(self.refresh(Some(self.interval() / 2)).await)?;
            if decides {
                is_lost |= self.note_lost(self.remove_stale().await)?;
            }
        }
        if is_lost { Err(WriteLost) } else { Ok(()) }
    }

    async fn write_changes(&self) -> Result<(), WriteLost> {
        let mut is_lost = false;
        // Not those that are lost now: they are queued again.
        let mut count = self.shared.table().changed_count();
        while count > 0 {
            let writes = self.shared.table().take_changed(MAX_WRITES.min(count));
            if writes.is_empty() {
                break;
            }
            count = count.saturating_sub(writes.len());
            is_lost |= self.note_lost(self.write(writes).await)?;
        }
        if is_lost { Err(WriteLost) } else { Ok(()) }
    }

    async fn end_left(&self) -> Result<(), WriteLost> {
        let (now, mut is_lost) = (Instant::now(), false);
        loop {
            let left = self.shared.table().take_left(MAX_WRITES, now);
            if left.is_empty() {
                return if is_lost { Err(WriteLost) } else { Ok(()) };
            }
            is_lost |= self.note_lost(self.leave(left).await)?;
        }
    }

    async fn refresh(&self, slack: Option<Duration>) -> Result<(), WriteLost> {
        let (mut slot, mut is_lost) = (Some(0), false);
        while let Some(from) = slot {
            let (writes, next) = self.shared.table().refresh(from, MAX_WRITES, slack);
            slot = next;
            is_lost |= self.note_lost(self.write(writes).await)?;
        }
        if is_lost { Err(WriteLost) } else { Ok(()) }
    }

    /// Writes entries, and announces the users whom Redis did not have.
    async fn write(&self, writes: Vec<EntryWrite>) -> Result<(), WriteLost> {
        if writes.is_empty() {
            return Ok(());
        }
        let mut encoder = WriteEncoder::new(&self.keys, self.commands.batch(), self.shared.rules.tells);
        let ranges: Vec<_> = writes.iter().map(|write| encoder.push(write)).collect();
        let sent_at = Instant::now();
        let replies = self.commands.send(encoder.finish()).await;
        let (mut news, mut is_lost, mut has_failed) = (Vec::new(), false, false);
        let mut table = self.shared.table();
        for (write, range) in writes.into_iter().zip(ranges) {
            let is_new = range.is_new.and_then(|index| replies.get(index));
            if let (EntryKey::Online(user), Action::Keep { is_news: true, .. }) = (&write.key, &write.action)
                && matches!(is_new, Some(Ok(CommandReply::Integer(1))))
            {
                news.push(user.clone());
            }
            let own = replies.get(range.commands).unwrap_or_default();
            let mut failures = own.iter().filter_map(|reply| reply.as_ref().err()).peekable();
            if failures.peek().is_none() {
                table.on_written(&write, sent_at);
                continue;
            }
            let mut must_repeat = false;
            for failure in failures {
                match failure {
                    CommandFailure::Lost => (is_lost, must_repeat) = (true, true),
                    CommandFailure::Refused(reason) => {
                        self.departures.warn_refused(reason);
                        must_repeat |= is_passing(reason);
                        // The new master may lack what the former one had.
                        is_lost |= ErrorClass::of(reason) == ErrorClass::NotMaster;
                    }
                }
            }
            if must_repeat {
                has_failed = true;
                table.on_lost(write);
            } else {
                table.on_refused(&write, sent_at);
            }
        }
        // In a cluster, one lost node is no reason to write to the others again.
        table.must_rewrite |= is_lost && !self.commands.is_cluster();
        drop(table);
        for user in news {
            (self.announce)(&user, PresenceChange::Online);
        }
        if has_failed { Err(WriteLost) } else { Ok(()) }
    }

    /// Ends entries whose grace is over.
    async fn leave(&self, left: Vec<EntryWrite>) -> Result<(), WriteLost> {
        let (users, visitors): (Vec<_>, Vec<_>) =
            left.into_iter().partition(|write| matches!(write.key, EntryKey::Online(_)));
        let mut is_lost = self.note_lost(self.write(visitors).await).inspect_err(|_| {
            // These users have not been asked about yet.
            self.put_back(&users);
        })?;
        let leavers: Vec<_> = users.iter().filter_map(leaver).collect();
        let departures = self.departures.depart(&leavers, None).await;
        let mut table = self.shared.table();
        for (write, departure) in users.into_iter().zip(&departures) {
            let was_valid = matches!(write.action, Action::Leave { is_valid: true, .. });
            match departure {
                Departure::Lost => {
                    is_lost = true;
                    table.on_lost(write);
                }
                // Redis has lost its data. After everything is written again, this departure is decided.
                Departure::Unknown if was_valid => {
                    table.must_rewrite = true;
                    table.on_lost(write);
                }
                _ => table.on_written(&write, Instant::now()),
            }
        }
        drop(table);
        self.announce_offline(&leavers, &departures);
        if is_lost { Err(WriteLost) } else { Ok(()) }
    }

    fn announce_offline(&self, leavers: &[Leaver], departures: &[Departure]) {
        for (leaver, departure) in leavers.iter().zip(departures) {
            if *departure == Departure::Offline {
                (self.announce)(&leaver.user, PresenceChange::Offline);
            }
        }
    }

    fn put_back(&self, writes: &[EntryWrite]) {
        let mut table = self.shared.table();
        for write in writes {
            if let Some(Leaver { ids, .. }) = leaver(write) {
                let action = Action::Leave { ids, is_valid: true };
                table.on_lost(EntryWrite { action, key: write.key.clone(), ..*write });
            }
        }
    }

    /// Declares users offline whose gateways have ended without a word. Of several gateways that find the same user, one
    /// removes and announces it.
    async fn remove_stale(&self) -> Result<(), WriteLost> {
        let users_key = self.keys.users();
        // Those that are lost stay in front of the others.
        let mut lost = 0;
        for _ in 0..MAX_STALE_ROUNDS {
            let (stale, offset, count) = (before(now()), lost.to_string(), MAX_STALE.to_string());
            let arguments = [users_key.as_str(), "-inf", &stale, "LIMIT", &offset, &count].map(str::as_bytes);
            let found = match self.commands.call("ZRANGEBYSCORE", &arguments).await {
                Ok(CommandReply::Other(found)) => found,
                Ok(_) => return Ok(()),
                Err((reason, true)) => {
                    self.departures.warn_refused(&reason);
                    return Ok(());
                }
                Err(_) => return Err(WriteLost),
            };
            let users: HashSet<Arc<str>> =
                found.list().iter().filter_map(|user| user.text().map(Into::into)).collect();
            let is_last = users.len() < MAX_STALE;
            let leavers: Vec<_> = {
                let table = self.shared.table();
                let others = users.into_iter().filter(|user| !table.has(&EntryKey::Online(user.clone())));
                others.map(|user| Leaver { user, ids: Vec::new() }).collect()
            };
            if leavers.is_empty() {
                break;
            }
            let departures = self.departures.depart(&leavers, None).await;
            self.announce_offline(&leavers, &departures);
            lost += departures.iter().filter(|departure| **departure == Departure::Lost).count();
            if is_last || (lost > 0 && !self.commands.is_cluster()) {
                break;
            }
        }
        if lost > 0 { Err(WriteLost) } else { Ok(()) }
    }

    /// Ends all entries of a process that ends, within a second. Users whom no other gateway has keep their entry for the
    /// grace, and come back or are declared offline by another gateway. Users whose entry is stale already are announced.
    pub async fn finish(&self) {
        let _ = timeout(FINISH_TIMEOUT, async {
            loop {
                let visitors = self.shared.table().take_visitors(MAX_WRITES);
                let users = self.shared.table().take_users(MAX_WRITES);
                if visitors.is_empty() && users.is_empty() {
                    return;
                }
                let _ = self.write(visitors).await;
                let leavers: Vec<_> = users.iter().filter_map(leaver).collect();
                if !leavers.is_empty() {
                    let keep_until = Some(now() + GRACE.as_secs_f64());
                    let departures = self.departures.depart(&leavers, keep_until).await;
                    self.announce_offline(&leavers, &departures);
                }
            }
        })
        .await;
    }
}

/// Returns the user of a write that ends one.
fn leaver(write: &EntryWrite) -> Option<Leaver> {
    match (&write.key, &write.action) {
        (EntryKey::Online(user), Action::Leave { ids, .. }) => {
            Some(Leaver { user: user.clone(), ids: ids.clone() })
        }
        _ => None,
    }
}
