//! Keyspace events: Redis tells when a session's key is written, deleted or over, where its operator wants that.

use std::collections::HashMap;

use tracing::debug;

use crate::redis::ReplyValue;
use crate::redis::error_reply::ErrorClass;
use crate::redis::{CommandClient, CommandReply};
use crate::wire::{Channel, KeyEvent};

/// Most keys with events that wait for the broker.
const WAITING: usize = 4_096;

/// Whether Redis tells of keys.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Support {
    Yes,
    No,
    /// It does not say whether it does.
    Unknown,
}

/// Keys to which something has happened, by the channels that tell of them.
#[derive(Debug, Default)]
pub(super) struct KeyEvents {
    keys: HashMap<Channel, KeyEvent>,
    /// Whether there were more than are kept.
    overlooked: bool,
}

impl KeyEvents {
    /// Takes an event in: `operation` is the name of the command, as Redis tells it.
    pub(super) fn keep(&mut self, channel: &str, operation: &[u8]) {
        let deleted = matches!(operation, b"del" | b"rename_from");
        if let Some(key_event) = self.keys.get_mut(channel) {
            // A key that was deleted and written again counts as deleted: one looks anyway.
            if deleted {
                *key_event = KeyEvent::Deleted;
            }
        } else if self.keys.len() >= WAITING {
            self.overlooked = true;
        } else {
            let key_event = if deleted { KeyEvent::Deleted } else { KeyEvent::Changed };
            self.keys.insert(Channel::from_redis(channel), key_event);
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.keys.is_empty() && !self.overlooked
    }

    /// Returns what came in, and whether there was more.
    pub(super) fn take(&mut self) -> (HashMap<Channel, KeyEvent>, bool) {
        (std::mem::take(&mut self.keys), std::mem::take(&mut self.overlooked))
    }
}

/// Asks Redis whether it tells of keys that are deleted, written with a time to live, and over (`Kgx`). That is only
/// read, never set: it is the operator's to decide.
pub(super) async fn probe_support(commands: &CommandClient) -> Option<Support> {
    judge(commands.call("CONFIG", &[b"get", b"notify-keyspace-events"]).await)
}

/// Returns what a reply says; none where the query has to be asked again.
fn judge(reply: Result<CommandReply, (String, bool)>) -> Option<Support> {
    match reply {
        Ok(reply) => {
            let found = if let CommandReply::Other(found) = &reply {
                found.field("notify-keyspace-events")
            } else {
                None
            };
            let flags = found.and_then(ReplyValue::text).unwrap_or_default();
            let tells = flags.contains('K') && (flags.contains('g') || flags.contains('A'));
            Some(if tells { Support::Yes } else { Support::No })
        }
        // Where the command is forbidden, as for managed services, subscribing does no harm.
        Err((error, true)) if ErrorClass::of(&error) != ErrorClass::Temporary => Some(Support::Unknown),
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
    fn redis_is_asked_again_whether_it_tells_where_it_only_cannot_answer_now() {
        let refused = |text: &str| judge(Err((text.to_owned(), true)));
        assert_eq!(refused("BUSY Redis is busy running a script."), None);
        assert_eq!(refused("NOPERM no permissions to run the 'config|get' command"), Some(Support::Unknown));
        assert_eq!(refused("ERR unknown command 'CONFIG'"), Some(Support::Unknown));
        assert_eq!(judge(Err(("redis was lost".to_owned(), false))), None);
    }
}
