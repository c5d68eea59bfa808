//! Keyspace events: Redis tells when a session's key is written, deleted or over, where its operator wants that.

use std::collections::HashMap;

use fred::prelude::*;
use fred::types::{CustomCommand, KeyspaceEvent};
use tracing::debug;

use super::commands::is_reply;
use super::connect::describe;
use crate::wire::Channel;

/// Events that may wait for the broker.
pub(super) const WAITING: usize = 4_096;

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

pub(super) fn touch(event: &KeyspaceEvent) -> Option<(Channel, Touch)> {
    let touch =
        if matches!(&*event.operation, "del" | "rename_from") { Touch::Deleted } else { Touch::Changed };
    Some((channel_of(event.db, event.key.as_str()?), touch))
}

/// Asks Redis whether it tells of keys that are deleted, written with a time to live, and over (`Kgx`). That is only
/// read, never set: it is the operator's to decide.
pub(super) async fn telling(client: &Client) -> Option<Telling> {
    let get = CustomCommand::new_static("CONFIG", None, false);
    match client.custom::<HashMap<String, String>, _>(get, vec!["get", "notify-keyspace-events"]).await {
        Ok(found) => {
            let flags = found.get("notify-keyspace-events").map_or("", String::as_str);
            let tells = flags.contains('K') && (flags.contains('g') || flags.contains('A'));
            Some(if tells { Telling::Yes } else { Telling::No })
        }
        // Where the command is forbidden, as for managed services, subscribing does no harm.
        Err(error) if is_reply(error.details()) => Some(Telling::Unknown),
        Err(error) => {
            debug!(error = %describe(&error), "cannot ask for notify-keyspace-events");
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
}
