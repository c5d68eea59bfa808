//! Keyspace events: Redis tells when a session's key is written, deleted or over, where its operator wants that.

use std::collections::HashMap;

use tracing::debug;

use super::answer::Answer;
use super::commands::{Commands, Reply};
use super::error_reply::Meaning;
use crate::wire::Channel;

/// Keys of which events may wait for the broker.
const WAITING: usize = 4_096;

/// How the names of the channels begin that tell of keys.
const PREFIX: &str = "__keyspace@";

/// What happened to a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Touch {
    /// It was deleted, or renamed.
    Deleted,
    /// It was written, or is over, or was evicted: one has to look.
    Changed,
}

/// Whether Redis tells of keys.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Telling {
    Yes,
    No,
    /// It does not say whether it does.
    Unknown,
}

/// Returns the channel that tells of a key of a database.
pub fn channel_of(database: u8, key: &str) -> Channel {
    Channel::from_redis(&format!("{PREFIX}{database}__:{key}"))
}

/// Returns the key that a channel tells of.
pub fn key_of(channel: &Channel) -> Option<&str> {
    channel.as_str().strip_prefix(PREFIX)?.split_once("__:").map(|(_, key)| key)
}

/// Returns the channel as text, if it tells of keys.
pub(super) fn about_keys(channel: &[u8]) -> Option<&str> {
    channel.starts_with(PREFIX.as_bytes()).then(|| std::str::from_utf8(channel).ok())?
}

/// Keys to which something has happened, by the channels that tell of them.
#[derive(Debug, Default)]
pub(super) struct Touches {
    keys: HashMap<Channel, Touch>,
    /// Whether there were more than are kept.
    overlooked: bool,
}

impl Touches {
    /// Takes an event in: `operation` is the name of the command, as Redis tells it.
    pub(super) fn keep(&mut self, channel: &str, operation: &[u8]) {
        let deleted = matches!(operation, b"del" | b"rename_from");
        if let Some(touch) = self.keys.get_mut(channel) {
            // A key that was deleted and written again counts as deleted: one looks anyway.
            if deleted {
                *touch = Touch::Deleted;
            }
        } else if self.keys.len() >= WAITING {
            self.overlooked = true;
        } else {
            let touch = if deleted { Touch::Deleted } else { Touch::Changed };
            self.keys.insert(Channel::from_redis(channel), touch);
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.keys.is_empty() && !self.overlooked
    }

    /// Returns what came in, and whether there was more.
    pub(super) fn take(&mut self) -> (HashMap<Channel, Touch>, bool) {
        (std::mem::take(&mut self.keys), std::mem::take(&mut self.overlooked))
    }
}

/// Asks Redis whether it tells of keys that are deleted, written with a time to live, and over (`Kgx`). That is only
/// read, never set: it is the operator's to decide.
pub(super) async fn telling(commands: &Commands) -> Option<Telling> {
    judge(commands.give("CONFIG", &[b"get", b"notify-keyspace-events"]).await)
}

/// Returns what a reply says; none where the question has to be asked again.
fn judge(reply: Result<Reply, (String, bool)>) -> Option<Telling> {
    match reply {
        Ok(reply) => {
            let found =
                if let Reply::Other(found) = &reply { found.field("notify-keyspace-events") } else { None };
            let flags = found.and_then(Answer::text).unwrap_or_default();
            let tells = flags.contains('K') && (flags.contains('g') || flags.contains('A'));
            Some(if tells { Telling::Yes } else { Telling::No })
        }
        // Where the command is forbidden, as for managed services, subscribing does no harm.
        Err((error, true)) if Meaning::of(&error) != Meaning::NotNow => Some(Telling::Unknown),
        Err((error, _)) => {
            debug!(error, "cannot ask for notify-keyspace-events");
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_channel_tells_of_one_key_of_one_database() {
        let channel = channel_of(3, ":1:a__:b");
        assert_eq!(channel.as_str(), "__keyspace@3__::1:a__:b");
        assert_eq!(key_of(&channel), Some(":1:a__:b"));
        assert_eq!(key_of(&Channel::from_redis("broadcast:x")), None);
    }

    #[test]
    fn redis_is_asked_again_whether_it_tells_where_it_only_cannot_answer_now() {
        let refused = |text: &str| judge(Err((text.to_owned(), true)));
        assert_eq!(refused("BUSY Redis is busy running a script."), None);
        assert_eq!(refused("NOPERM no permissions to run the 'config|get' command"), Some(Telling::Unknown));
        assert_eq!(refused("ERR unknown command 'CONFIG'"), Some(Telling::Unknown));
        assert_eq!(judge(Err(("redis was lost".to_owned(), false))), None);
    }
}
