//! Users who leave: their connections of this gateway are removed, and if no gateway has a valid one, the user is offline.
//!
//! Outside of a cluster one script decides, so that a user who comes back at this moment is either found or new. Its two
//! keys lie on different nodes of a cluster: there, and where Redis refuses EVAL, single commands do the same, and a user
//! who comes back between two of them may be announced as online twice.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;

use tracing::warn;

use super::commands::{MAX_MEMBERS, PresenceKeys, before, now, score};
use crate::redis::error_reply::{ErrorClass, HintThrottle, cure};
use crate::redis::{CommandClient, CommandFailure, CommandReply};

/// `KEYS`: the user's connections, the users of the site. `ARGV`: now, the user, until when the last entry is kept (empty:
/// it is removed), ids. Returns 1 if the user is offline now, -1 if Redis knew nothing of the user, else 0.
const LEAVE: &str = "\
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', '(' .. ARGV[1])
local own = 0
for i = 4, #ARGV do
  if redis.call('ZSCORE', KEYS[1], ARGV[i]) then own = own + 1 end
end
local others = redis.call('ZCARD', KEYS[1]) - own
if ARGV[3] ~= '' and others == 0 and own > 0 then
  for i = 4, #ARGV do redis.call('ZADD', KEYS[1], 'XX', ARGV[3], ARGV[i]) end
  redis.call('ZADD', KEYS[2], ARGV[3], ARGV[2])
  return 0
end
for i = 4, #ARGV do redis.call('ZREM', KEYS[1], ARGV[i]) end
if others > 0 then return 0 end
if redis.call('ZREM', KEYS[2], ARGV[2]) == 1 then return 1 end
if own == 0 then return -1 end
return 0
";

type PresenceReply = Result<CommandReply, CommandFailure>;

/// A user who leaves, with the ids of its connections at this gateway.
pub(super) struct Leaver {
    pub(super) user: Arc<str>,
    pub(super) ids: Vec<Arc<str>>,
}

/// What became of a user who leaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Departure {
    /// The user is offline, and this gateway announces it.
    Offline,
    /// The user has other connections, or another gateway has announced it.
    Silent,
    /// Redis did not know the user.
    Unknown,
    /// Redis was lost, or refuses commands at the moment: the user has to be removed again.
    Lost,
    /// Redis has no script that could decide; the user's entries go stale.
    Kept,
}

/// Removes users.
pub(super) struct Departures {
    commands: Rc<CommandClient>,
    keys: Rc<PresenceKeys>,
    /// Redis refuses EVAL.
    has_no_scripts: Cell<bool>,
    refusals: RefCell<HintThrottle>,
}

impl Departures {
    pub(super) fn new(commands: Rc<CommandClient>, keys: Rc<PresenceKeys>) -> Self {
        let has_no_scripts = Cell::new(commands.is_cluster());
        Self { commands, keys, has_no_scripts, refusals: RefCell::default() }
    }

    /// Removes users. With `keep_until`, the last entry of a user stays until then: the gateway ends, and its clients may
    /// come back at another. Returns what became of each.
    pub(super) async fn depart(&self, leavers: &[Leaver], keep_until: Option<f64>) -> Vec<Departure> {
        if self.has_no_scripts.get() {
            return self.depart_without_scripts(leavers, keep_until).await;
        }
        let (now, keep) = (score(now()), keep_until.map(score).unwrap_or_default());
        let users = self.keys.users();
        let (mut batch, mut commands, mut ranges) = (self.commands.batch(), 0, Vec::new());
        for Leaver { user, ids } in leavers {
            let (key, first) = (self.keys.user(user), commands);
            // Lua has a limit of arguments: the script gets the last ids, after the others are gone.
            let (others, last) = ids.split_at(ids.len().saturating_sub(MAX_MEMBERS));
            for ids in others.chunks(MAX_MEMBERS) {
                let ids = ids.iter().map(|id| id.as_bytes());
                batch.add("ZREM", &std::iter::once(key.as_bytes()).chain(ids).collect::<Vec<_>>());
                commands += 1;
            }
            let arguments = [LEAVE, "2", &key, &users, &now, user, &keep].into_iter();
            let arguments = arguments.chain(last.iter().map(|id| &**id)).map(str::as_bytes);
            batch.add("EVAL", &arguments.collect::<Vec<_>>());
            commands += 1;
            ranges.push(first..commands);
        }
        let replies = self.commands.send(batch).await;
        // The script is the last command of each.
        let replies: Vec<_> =
            ranges.into_iter().filter_map(|range| replies.get(range)?.split_last()).collect();
        let denial = replies.iter().find_map(|(script, _)| script_denial(script));
        if let Some(reason) = denial {
            warn!(error = %reason, "Redis refuses EVAL; presence works without it, and in rare cases announces a user as online twice{}", cure(reason));
            self.has_no_scripts.set(true);
        }
        let mut departures = Vec::with_capacity(leavers.len());
        for (leaver, (script, removals)) in leavers.iter().zip(replies) {
            if script_denial(script).is_none() {
                self.warn_of(removals);
                self.warn_of(std::slice::from_ref(script));
                departures.push(departure_of(script, removals));
                continue;
            }
            let leaver = std::slice::from_ref(leaver);
            departures.extend(self.depart_without_scripts(leaver, keep_until).await);
        }
        departures
    }

    async fn depart_without_scripts(&self, leavers: &[Leaver], keep_until: Option<f64>) -> Vec<Departure> {
        if keep_until.is_some() {
            return vec![Departure::Kept; leavers.len()];
        }
        self.depart_stepwise(leavers).await
    }

    fn warn_of(&self, replies: &[PresenceReply]) {
        for reply in replies {
            if let Err(CommandFailure::Refused(reason)) = reply {
                self.warn_refused(reason);
            }
        }
    }

    /// Warns, at most once per minute, that Redis refuses a command.
    pub(super) fn warn_refused(&self, reason: &str) {
        if self.refusals.borrow_mut().allow(reason) {
            warn!(error = %reason, "Redis refuses a command of presence; who is online is not known. It needs a Redis with sorted sets, which the embedded store lacks, and the rights of docs/security.md{}", cure(reason));
        }
    }

    /// Sends commands for each of these users, and returns the last reply of each as a number, or what became of a user
    /// about whom Redis gave no answer.
    async fn ask(
        &self,
        leavers: &[&Leaver],
        command: impl Fn(&Leaver) -> Vec<(&'static str, Vec<String>)>,
    ) -> Vec<Result<i64, Departure>> {
        let mut batch = self.commands.batch();
        let mut counts = Vec::new();
        for leaver in leavers {
            let commands = command(leaver);
            counts.push(commands.len());
            for (name, arguments) in commands {
                let arguments: Vec<&[u8]> = arguments.iter().map(String::as_bytes).collect();
                batch.add(name, &arguments);
            }
        }
        let mut replies = self.commands.send(batch).await.into_iter();
        let mut last = |count: usize| {
            let own: Vec<_> = replies.by_ref().take(count).collect();
            self.warn_of(&own);
            match own.split_last() {
                Some((Err(failure), _)) => Err(of_failure(failure)),
                // What was not removed counts as another connection.
                Some((Ok(_), before)) if must_repeat(before) => Err(Departure::Lost),
                Some((Ok(CommandReply::Integer(number)), _)) => Ok(*number),
                Some((Ok(_), _)) => Err(Departure::Silent),
                None => Err(Departure::Lost),
            }
        };
        counts.into_iter().map(&mut last).collect()
    }

    /// Removes users by single commands.
    async fn depart_stepwise(&self, leavers: &[Leaver]) -> Vec<Departure> {
        let stale = before(now());
        let users = self.keys.users();
        let all: Vec<_> = leavers.iter().collect();
        let left = self.ask(&all, |leaver| {
            let key = self.keys.user(&leaver.user);
            let mut commands: Vec<(&'static str, Vec<String>)> = Vec::new();
            for ids in leaver.ids.chunks(MAX_MEMBERS) {
                let ids = ids.iter().map(|id| String::from(&**id));
                commands.push(("ZREM", std::iter::once(key.clone()).chain(ids).collect()));
            }
            commands.push(("ZREMRANGEBYSCORE", vec![key.clone(), "-inf".to_owned(), stale.clone()]));
            commands.push(("ZCARD", vec![key]));
            commands
        });
        let mut departures: Vec<_> = left.await.into_iter().map(of_number).collect();
        // Those without a connection are still among the users of the site.
        let indices = indices(&departures, Departure::Offline);
        let gone: Vec<_> = indices.iter().map(|index| &leavers[*index]).collect();
        let removed =
            self.ask(&gone, |leaver| vec![("ZREM", vec![users.clone(), leaver.user.as_ref().to_owned()])]);
        for (index, removed) in indices.into_iter().zip(removed.await) {
            departures[index] = match removed {
                Ok(1) => Departure::Offline,
                Ok(_) => Departure::Silent,
                Err(departure) => departure,
            };
        }
        self.restore(leavers, &mut departures, &users).await;
        departures
    }

    /// Adds users again who have come back meanwhile.
    async fn restore(&self, leavers: &[Leaver], departures: &mut [Departure], users: &str) {
        let indices = indices(departures, Departure::Offline);
        let gone: Vec<_> = indices.iter().map(|index| &leavers[*index]).collect();
        let counts = self.ask(&gone, |leaver| vec![("ZCARD", vec![self.keys.user(&leaver.user)])]).await;
        let back: Vec<_> =
            indices.into_iter().zip(counts).filter(|(_, count)| count.is_ok_and(|it| it > 0)).collect();
        // Their own gateway sets the right time with its next refresh.
        let until = score(now() + 60.0);
        let back: Vec<_> = back.into_iter().map(|(index, _)| index).collect();
        let leavers: Vec<_> = back.iter().map(|index| &leavers[*index]).collect();
        let add = |leaver: &Leaver| {
            vec![("ZADD", vec![users.to_owned(), until.clone(), leaver.user.as_ref().to_owned()])]
        };
        self.ask(&leavers, add).await;
        for index in back {
            departures[index] = Departure::Silent;
        }
    }
}

/// Returns what became of a user, from the reply of the script and from those of the removals before it.
fn departure_of(script: &PresenceReply, removals: &[PresenceReply]) -> Departure {
    match script {
        Ok(CommandReply::Integer(1)) => Departure::Offline,
        // The script took ids that were not removed for other connections.
        Ok(_) if must_repeat(removals) => Departure::Lost,
        Ok(CommandReply::Integer(-1)) => Departure::Unknown,
        Ok(_) => Departure::Silent,
        Err(failure) => of_failure(failure),
    }
}

/// Returns what became of a user about whom Redis gave no answer.
fn of_failure(failure: &CommandFailure) -> Departure {
    match failure {
        CommandFailure::Refused(reason) if !is_passing(reason) => Departure::Silent,
        CommandFailure::Refused(_) | CommandFailure::Lost => Departure::Lost,
    }
}

/// Returns whether one of these commands has to be sent again.
fn must_repeat(replies: &[PresenceReply]) -> bool {
    let failures = replies.iter().filter_map(|reply| reply.as_ref().err());
    failures.map(of_failure).any(|departure| departure == Departure::Lost)
}

/// Returns what is known of a user with this number of connections.
fn of_number(connections: Result<i64, Departure>) -> Departure {
    match connections {
        Ok(0) => Departure::Offline,
        Ok(_) => Departure::Silent,
        Err(departure) => departure,
    }
}

/// Returns the reason if Redis never executes scripts.
fn script_denial(reply: &PresenceReply) -> Option<&str> {
    let Err(CommandFailure::Refused(reason)) = reply else { return None };
    (reason.starts_with("NOPERM") || reason.contains("unknown command")).then_some(reason)
}

/// Returns whether Redis will execute the refused command later.
pub(super) fn is_passing(reason: &str) -> bool {
    matches!(ErrorClass::of(reason), ErrorClass::Temporary | ErrorClass::NotMaster)
}

fn indices(departures: &[Departure], wanted: Departure) -> Vec<usize> {
    departures.iter().enumerate().filter(|(_, it)| **it == wanted).map(|(index, _)| index).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_user_is_removed_again_if_some_connections_could_not_be_removed() {
        let refused = |reason: &str| Err(CommandFailure::Refused(reason.to_owned()));
        let script = |number| Ok(CommandReply::Integer(number));
        for (removal, number, expected) in [
            (script(500), 0, Departure::Silent),
            (script(500), -1, Departure::Unknown),
            (refused("OOM full"), 0, Departure::Lost),
            (refused("READONLY x"), -1, Departure::Lost),
            (Err(CommandFailure::Lost), 0, Departure::Lost),
            // Their time had come anyway.
            (refused("OOM full"), 1, Departure::Offline),
            // It would be refused again.
            (refused("NOPERM zrem"), 0, Departure::Silent),
        ] {
            assert_eq!(departure_of(&script(number), &[script(500), removal]), expected);
        }
        assert_eq!(departure_of(&refused("OOM full"), &[]), Departure::Lost);
    }
}
