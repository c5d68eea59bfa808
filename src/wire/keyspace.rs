//! Keyspace notifications of Redis: the channel name of a key, and the kinds of events.

use super::Channel;

/// Start of the names of all keyspace channels.
const PREFIX: &str = "__keyspace@";

/// Events of a key, coalesced. Without any of them only a read shows what has become of the key.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "each is an event of its own, and several may be coalesced"
)]
pub struct KeyEvent {
    /// It was deleted.
    pub is_deleted: bool,
    /// It was renamed to another key.
    pub is_renamed: bool,
    /// It has expired.
    pub is_expired: bool,
    /// It was written as a whole.
    pub is_written: bool,
}

impl KeyEvent {
    /// Adds the events of `other`.
    pub fn merge(&mut self, other: Self) {
        self.is_deleted |= other.is_deleted;
        self.is_renamed |= other.is_renamed;
        self.is_expired |= other.is_expired;
        self.is_written |= other.is_written;
    }
}

/// The events that Redis publishes, by `notify-keyspace-events`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PublishedEvents {
    /// Those of keys that are deleted, written with a time to live, or expire.
    pub has_expiry: bool,
    /// In addition those of plain writes.
    pub has_writes: bool,
}

impl PublishedEvents {
    /// Parses the value of `notify-keyspace-events`.
    pub fn parse(flags: &str) -> Self {
        let has = |classes: &str| flags.contains('A') || classes.chars().all(|class| flags.contains(class));
        let has_expiry = flags.contains('K') && has("g");
        Self { has_expiry, has_writes: has_expiry && has("gx$") }
    }
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
