//! Keyspace notifications of Redis: the channel names of keys, and what happened to a key.

use super::Channel;

/// How the names of the channels begin that tell of keys.
const PREFIX: &str = "__keyspace@";

/// What happened to a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KeyEvent {
    /// It was deleted, or renamed.
    Deleted,
    /// It was written, or is over, or was evicted: one has to look.
    Changed,
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
pub fn about_keys(channel: &[u8]) -> Option<&str> {
    channel.starts_with(PREFIX.as_bytes()).then(|| std::str::from_utf8(channel).ok())?
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
