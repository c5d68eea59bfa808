//! The names of a channel's history: the stream that keeps its messages, and the channel of version 2.
//!
//! They do not begin with an audience, so no client can choose one. In a cluster both are in the slot of the channel, because
//! one script writes the stream and the persisted message.

use std::fmt;

use super::channel::mask_sessions;
use super::{Channel, Namespace};

/// First words of the names, after the prefix.
const STREAM: &str = "history:";
const LIVE: &str = "live:";

/// The key of the stream with the messages of a channel.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct StreamKey(Box<str>);

impl StreamKey {
    /// Returns the key in Redis.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// Escapes the key and masks session keys, because this is meant for logs.
impl fmt::Debug for StreamKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&mask_sessions(&self.0).escape_debug(), f)
    }
}

/// The id of a stream's entry. Ids rise in the order of publication.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct EntryId {
    /// Unix milliseconds.
    pub ms: u64,
    /// The number among the entries of the same millisecond.
    pub seq: u64,
}

impl EntryId {
    /// Returns a position behind all entries of a millisecond. No entry has this id.
    pub const fn at(ms: u64) -> Self {
        Self { ms, seq: u64::MAX }
    }

    /// Returns whether this is the position of a time, and not the id of an entry.
    pub const fn is_time(self) -> bool {
        self.seq == u64::MAX
    }

    /// Returns the position directly before an entry.
    #[must_use]
    pub const fn before(self) -> Self {
        match (self.ms, self.seq) {
            (0, 0) => self,
            // The last number stands for a time.
            (ms, 0) => Self { ms: ms - 1, seq: u64::MAX - 1 },
            (ms, seq) => Self { ms, seq: seq - 1 },
        }
    }

    /// Parses an id as Redis writes it, `1700000000000-0`.
    pub fn parse(text: &str) -> Option<Self> {
        let (ms, seq) = text.split_once('-')?;
        let number =
            |text: &str| text.bytes().all(|byte| byte.is_ascii_digit()).then(|| text.parse().ok())?;
        Some(Self { ms: number(ms)?, seq: number(seq)? })
    }
}

impl fmt::Display for EntryId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.ms, self.seq)
    }
}

/// Splits a message of a live channel, `ID PAYLOAD`; none if it has no id.
pub fn split_live(message: &[u8]) -> Option<(EntryId, &[u8])> {
    let blank = message.iter().position(|byte| *byte == b' ')?;
    let id = EntryId::parse(std::str::from_utf8(&message[..blank]).ok()?)?;
    Some((id, &message[blank + 1..]))
}

/// Names the histories of a site's channels.
#[derive(Debug, Clone)]
pub struct HistoryNames {
    /// The prefix with its colon, or nothing.
    prefix: String,
    stream: String,
    live: String,
    in_cluster: bool,
}

impl HistoryNames {
    /// Creates the names of a site. `in_cluster`: its Redis is a cluster.
    pub fn new(namespace: &Namespace, in_cluster: bool) -> Self {
        let prefix = match namespace.as_str() {
            "" => String::new(),
            prefix => format!("{prefix}:"),
        };
        Self { stream: namespace.own(STREAM), live: namespace.own(LIVE), prefix, in_cluster }
    }

    /// Returns the key of the stream with the messages of a channel. In a cluster there is none if braces in the channel's
    /// name prevent one in its slot: its messages are only published.
    pub fn stream(&self, channel: &Channel) -> Option<StreamKey> {
        self.name(&self.stream, channel).map(|name| StreamKey(name.into()))
    }

    /// Returns the channel with the messages and ids of a channel; none if that has no stream.
    pub fn live(&self, channel: &Channel) -> Option<Channel> {
        self.name(&self.live, channel).map(|name| Channel::from_redis(&name))
    }

    /// Returns the channel to which a channel of version 2 belongs; none for other names.
    pub fn plain_of_live(&self, live: &str) -> Option<Channel> {
        let rest = live.strip_prefix(&*self.live)?;
        let wrapped = rest.strip_prefix('{').filter(|_| self.in_cluster);
        Some(match wrapped.and_then(|rest| rest.strip_suffix('}')) {
            Some(channel) => Channel::from_redis(channel),
            None => Channel::from_redis(&format!("{}{rest}", self.prefix)),
        })
    }

    fn name(&self, kind: &str, channel: &Channel) -> Option<String> {
        let channel = channel.as_str();
        let rest = channel.strip_prefix(&*self.prefix)?;
        if !self.in_cluster {
            return Some(format!("{kind}{rest}"));
        }
        let tag = hash_tag(channel.as_bytes());
        let name = if tag.is_some() { format!("{kind}{rest}") } else { format!("{kind}{{{channel}}}") };
        (hash_tag(name.as_bytes()) == Some(tag.unwrap_or(channel.as_bytes()))).then_some(name)
    }
}

/// Returns the hash tag of a key, which alone determines its slot in a cluster: the text between the first `{` and the next
/// `}`, unless it is empty.
///
/// <https://redis.io/docs/latest/operate/oss_and_stack/reference/cluster-spec/>
pub fn hash_tag(key: &[u8]) -> Option<&[u8]> {
    let open = key.iter().position(|byte| *byte == b'{')?;
    let rest = &key[open + 1..];
    let length = rest.iter().position(|byte| *byte == b'}').filter(|length| *length > 0)?;
    Some(&rest[..length])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::{Audience, Facility};

    #[track_caller]
    fn check(prefix: &str, in_cluster: bool, audience: Audience<'_>, facility: &str, expected: Option<&str>) {
        let namespace = Namespace::new(prefix);
        let channel = namespace.channel(audience, &Facility::new(facility));
        let names = HistoryNames::new(&namespace, in_cluster);
        let (stream, live) = (names.stream(&channel), names.live(&channel));
        assert_eq!(stream.as_ref().map(StreamKey::as_str), expected);
        assert_eq!(
            live.as_ref().map(Channel::as_str),
            expected.map(|stream| stream.replacen("history", "live", 1)).as_deref()
        );
        if let Some(live) = live {
            assert_eq!(names.plain_of_live(live.as_str()), Some(channel));
        }
    }

    #[test]
    fn a_stream_and_a_live_channel_are_named_after_the_channel() {
        check("", false, Audience::Broadcast, "chat-5", Some("ws4redis:history:broadcast:chat-5"));
        check("site", false, Audience::User("jörg"), "a:b", Some("site:ws4redis:history:user:jörg:a:b"));
        check("", false, Audience::Group("{x}"), "", Some("ws4redis:history:group:{x}:"));
        let names = HistoryNames::new(&Namespace::new("site"), false);
        for other in
            ["ws4redis:live:broadcast:x", "site:broadcast:x", "site:ws4redis:history:broadcast:x", ""]
        {
            assert_eq!(names.plain_of_live(other), None, "{other}");
        }
    }

    #[test]
    fn in_a_cluster_both_are_in_the_slot_of_the_channel() {
        let broadcast = Audience::Broadcast;
        check("", true, broadcast, "chat-5", Some("ws4redis:history:{broadcast:chat-5}"));
        check("site", true, broadcast, "chat-5", Some("site:ws4redis:history:{site:broadcast:chat-5}"));
        check("{site}", true, broadcast, "chat-5", Some("{site}:ws4redis:history:broadcast:chat-5"));
        check("", true, broadcast, "chat-{5}", Some("ws4redis:history:broadcast:chat-{5}"));
        check("", true, broadcast, "chat-{5", Some("ws4redis:history:{broadcast:chat-{5}"));
        for (prefix, facility) in [("", "chat-}"), ("", "chat-{}"), ("{a", "b}"), ("{a", "b")] {
            check(prefix, true, broadcast, facility, None);
        }
    }

    #[test]
    fn a_live_message_is_an_id_and_a_payload() {
        let id = EntryId { ms: 1_700_000_000_000, seq: 7 };
        assert_eq!(split_live(b"1700000000000-7 a b"), Some((id, &b"a b"[..])));
        assert_eq!(split_live(b"1700000000000-7 "), Some((id, &b""[..])));
        assert_eq!(EntryId::parse(&id.to_string()), Some(id));
        assert!(id > EntryId { ms: 9, seq: u64::MAX });
        for other in ["1700000000000-7", "1-2-3 x", "+1-2 x", "1 x", "- x", "18446744073709551616-0 x", ""] {
            assert_eq!(split_live(other.as_bytes()), None, "{other}");
        }
        for other in ["-1", "1-", ""] {
            assert_eq!(EntryId::parse(other), None, "{other}");
        }
    }

    #[test]
    fn a_session_key_is_masked_in_logs() {
        let key = StreamKey("ws4redis:history:session:abc:x".into());
        assert_eq!(format!("{key:?}"), "ws4redis:history:session:***:x");
    }
}
