//! Keyspace notifications of Redis: the channel name of a key, and the kinds of events.

use super::Channel;

/// Start of the names of all keyspace channels.
const PREFIX: &str = "__keyspace@";

/// An event of a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KeyEvent {
    /// It was deleted, or renamed.
    Deleted,
    /// It was written, expired or evicted: only a read shows whether the session still exists.
    Changed,
}

/// Returns the channel of a key in a database.
pub fn channel_of(database: u8, key: &str) -> Channel {
    Channel::from_redis(&format!("{PREFIX}{database}__:{key}"))
}

/// Returns the key of a keyspace channel; `None` for any other channel.
pub fn key_of(channel: &Channel) -> Option<&str> {
    channel.as_str().strip_prefix(PREFIX)?.split_once("__:").map(|(_, key)| key)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_keyspace_channel_names_one_key_of_one_database() {
        let channel = channel_of(3, ":1:a__:b");
        assert_eq!(channel.as_str(), "__keyspace@3__::1:a__:b");
        assert_eq!(key_of(&channel), Some(":1:a__:b"));
        assert_eq!(key_of(&Channel::from_redis("broadcast:x")), None);
    }
}
