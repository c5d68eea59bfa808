//! Channel names: `[PREFIX:]AUDIENCE[:NAME]:FACILITY`, as django-websocket-redis writes them.

use std::borrow::{Borrow, Cow};
use std::fmt;
use std::sync::Arc;

use super::{Audience, AudienceKind, Facility};

/// The prefix of all channels of a site (upstream's `WS4REDIS_PREFIX`); empty means none.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Namespace(Box<str>);

impl Namespace {
    /// Wraps the prefix, without its colon.
    pub fn new(prefix: &str) -> Self {
        Self(prefix.into())
    }

    /// Returns the prefix without its colon.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Returns a name under the prefix that is reserved for the gateway. It does not begin with an audience, so no client can
    /// choose it.
    pub fn own(&self, name: &str) -> String {
        let colon = if self.0.is_empty() { "" } else { ":" };
        format!("{}{colon}ws4redis:{name}", self.0)
    }

    /// Returns the channel on which the Django package publishes invalidations.
    pub fn control(&self) -> Channel {
        Channel(self.own("control").into())
    }

    /// Returns the audience of a channel in a facility, `user:john` for example. The key of a session is left out: it is a
    /// credential.
    pub fn audience_of<'a>(&self, channel: &'a Channel, facility: &Facility) -> &'a str {
        let prefix = if self.0.is_empty() { 0 } else { self.0.len() + 1 };
        let rest = channel.as_str().get(prefix..).unwrap_or_default();
        let audience = rest.strip_suffix(facility.as_str()).and_then(|rest| rest.strip_suffix(':'));
        let audience = audience.unwrap_or(rest);
        let session = AudienceKind::Session.word();
        let is_session = audience.strip_prefix(session).is_some_and(|rest| rest.starts_with(':'));
        if is_session { &audience[..session.len()] } else { audience }
    }

    /// Returns the channel of an audience in a facility.
    pub fn channel(&self, audience: Audience<'_>, facility: &Facility) -> Channel {
        let mut name = String::with_capacity(64);
        if !self.0.is_empty() {
            name.push_str(&self.0);
            name.push(':');
        }
        name.push_str(audience.kind().word());
        name.push(':');
        let owner = match audience {
            Audience::Broadcast => None,
            Audience::Group(group) => Some(group),
            Audience::User(user) => Some(user),
            Audience::Session(key) => Some(key.as_str()),
        };
        if let Some(owner) = owner {
            name.push_str(owner);
            name.push(':');
        }
        name.push_str(facility.as_str());
        Channel(name.into())
    }
}

/// The name of a Redis pub/sub channel, which is also the key of its persisted message.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Channel(Arc<str>);

impl Channel {
    /// Copies a complete channel name.
    pub fn from_redis(name: &str) -> Self {
        Self(name.into())
    }

    /// Wraps a complete channel name without a copy.
    pub(super) fn from_shared(name: Arc<str>) -> Self {
        Self(name)
    }

    /// Returns the name without a copy.
    pub(super) fn into_shared(self) -> Arc<str> {
        self.0
    }

    /// Returns the name in Redis.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl AsRef<str> for Channel {
    fn as_ref(&self) -> &str {
        &self.0
    }
}

impl Borrow<str> for Channel {
    fn borrow(&self) -> &str {
        &self.0
    }
}

/// Escapes the name and masks session keys, because this is meant for logs.
impl fmt::Debug for Channel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&mask_sessions(&self.0).escape_debug(), f)
    }
}

/// Masks session keys: replaces the text between `session:` and the next colon (or the end) by `***`, and the text after
/// `__keyspace@`, because these channels are named after the Redis keys of sessions.
pub fn mask_sessions(text: &str) -> Cow<'_, str> {
    let keyspace = mask(text, "__keyspace@", &['\'', '"', ' ']);
    match mask(&keyspace, "session:", &[':', '\'', '"', ' ']) {
        Cow::Borrowed(_) => keyspace,
        Cow::Owned(masked) => Cow::Owned(masked),
    }
}

/// Replaces the text between a mark and the next of the ends.
fn mask<'a>(text: &'a str, mark: &str, ends: &[char]) -> Cow<'a, str> {
    if !text.contains(mark) {
        return Cow::Borrowed(text);
    }
    let mut masked = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find(mark) {
        let (before, after) = rest.split_at(at + mark.len());
        masked.push_str(before);
        masked.push_str("***");
        rest = &after[after.find(ends).unwrap_or(after.len())..];
    }
    masked.push_str(rest);
    Cow::Owned(masked)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::SessionKey;

    #[track_caller]
    fn check(prefix: &str, audience: Audience<'_>, facility: &str, expected: &str) {
        let channel = Namespace::new(prefix).channel(audience, &Facility::new(facility));
        assert_eq!(channel.as_str(), expected);
        let audience_of = Namespace::new(prefix).audience_of(&channel, &Facility::new(facility)).to_owned();
        let owner = match audience {
            Audience::Broadcast | Audience::Session(_) => "",
            Audience::Group(name) | Audience::User(name) => name,
        };
        let colon = if owner.is_empty() { "" } else { ":" };
        assert_eq!(audience_of, format!("{}{colon}{owner}", audience.kind().word()));
    }

    #[test]
    fn channels_are_named_as_upstream_names_them() {
        let key = SessionKey::new("wnqd0gbw5obpnj50zwh6yaq2yz4o8g9x");
        check("", Audience::Broadcast, "foobar", "broadcast:foobar");
        check("", Audience::Broadcast, "", "broadcast:");
        check("ws4redis", Audience::Broadcast, "foobar", "ws4redis:broadcast:foobar");
        check("a:", Audience::Broadcast, "foobar", "a::broadcast:foobar");
        check("", Audience::User("jörg"), "fé", "user:jörg:fé");
        check("", Audience::Group("red team"), "foobar", "group:red team:foobar");
        check("", Audience::Session(&key), "foobar", "session:wnqd0gbw5obpnj50zwh6yaq2yz4o8g9x:foobar");
    }

    #[test]
    fn session_keys_are_masked_in_logs() {
        assert_eq!(mask_sessions("session:abc:foobar"), "session:***:foobar");
        assert_eq!(
            mask_sessions("NOPERM 'p:session:abc:x' and session:d"),
            "NOPERM 'p:session:***:x' and session:***"
        );
        assert_eq!(mask_sessions("user:john:foobar"), "user:john:foobar");
        assert_eq!(mask_sessions("NOPERM '__keyspace@0__::1:cacheabc' x"), "NOPERM '__keyspace@***' x");
        assert_eq!(format!("{:?}", Channel::from_redis("session:abc:a\nb")), "session:***:a\\nb");
    }
}
