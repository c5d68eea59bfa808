//! Handshakes: the facility and the flags that a client requests, parsed from path and query.

use std::borrow::Cow;
use std::fmt;

use percent_encoding::percent_decode_str;
use url::form_urlencoded;

use super::AudienceKind;

/// A facility: the percent-decoded path after the prefix, not normalised. It may be empty.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Facility(Box<str>);

impl Facility {
    /// Wraps a decoded name.
    pub fn new(name: &str) -> Self {
        Self(name.into())
    }

    /// Returns the decoded name.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Returns whether the facility contains a colon. Channel names are ambiguous then: `group:a:b:x` is facility `b:x` of
    /// group `a`, or `x` of `a:b`.
    pub fn has_colon(&self) -> bool {
        self.0.contains(':')
    }
}

impl fmt::Debug for Facility {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0, f)
    }
}

/// The flags of a handshake: audiences to subscribe to and to publish to, `echo` and `event-names`.
#[derive(Clone, Copy, PartialEq, Eq, Default)]
pub struct Flags(u16);

impl Flags {
    const ECHO: u16 = 1 << 8;
    const EVENT_NAMES: u16 = 1 << 9;
    const PRESENCE: u16 = 1 << 10;
    /// The name of the flag that asks who else is there.
    pub const PRESENCE_NAME: &str = "presence";
    /// Flags that need no permission.
    const FREE: u16 = Self::ECHO | Self::EVENT_NAMES;

    /// Returns whether `subscribe-<kind>` is set.
    pub const fn subscribes(self, kind: AudienceKind) -> bool {
        self.0 & Self::subscribe_bit(kind) != 0
    }

    /// Returns whether `publish-<kind>` is set.
    pub const fn publishes(self, kind: AudienceKind) -> bool {
        self.0 & Self::publish_bit(kind) != 0
    }

    /// Returns whether the client receives its own messages, too.
    pub const fn echo(self) -> bool {
        self.0 & Self::ECHO != 0
    }

    /// Returns whether the first line of a stream's text may name its event.
    pub const fn event_names(self) -> bool {
        self.0 & Self::EVENT_NAMES != 0
    }

    /// Returns whether the client wants to know who else is there.
    pub const fn presence(self) -> bool {
        self.0 & Self::PRESENCE != 0
    }

    /// Returns these flags without `event-names`.
    #[must_use]
    pub const fn without_event_names(self) -> Self {
        Self(self.0 & !Self::EVENT_NAMES)
    }

    /// Returns `subscribe-<kind>`.
    pub const fn subscribe(kind: AudienceKind) -> Self {
        Self(Self::subscribe_bit(kind))
    }

    /// Returns `publish-<kind>`.
    pub const fn publish(kind: AudienceKind) -> Self {
        Self(Self::publish_bit(kind))
    }

    /// Returns the union of both.
    #[must_use]
    pub const fn and(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// Returns those of these flags that are allowed. `echo` and `event-names` need no permission.
    #[must_use]
    pub const fn within(self, allowed: Self) -> Self {
        Self(self.0 & (allowed.0 | Self::FREE))
    }

    /// Returns these flags without all `publish-<kind>`.
    #[must_use]
    pub fn without_publish(self) -> Self {
        let publish = AudienceKind::ALL.into_iter().fold(0, |bits, kind| bits | Self::publish_bit(kind));
        Self(self.0 & !publish)
    }

    /// Returns the flags with these names. Unknown names are ignored.
    pub fn named<'a>(names: impl IntoIterator<Item = &'a str>) -> Self {
        let mut flags = Self::default();
        names.into_iter().for_each(|name| flags.add(name));
        flags
    }

    /// Returns the names of the flags that need permission: all but `echo` and `event-names`.
    pub fn names(self) -> impl Iterator<Item = String> {
        let kinds = AudienceKind::ALL.into_iter().flat_map(move |kind| {
            let subscribe = self.subscribes(kind).then(|| format!("subscribe-{}", kind.word()));
            let publish = self.publishes(kind).then(|| format!("publish-{}", kind.word()));
            subscribe.into_iter().chain(publish)
        });
        kinds.chain(self.presence().then(|| Self::PRESENCE_NAME.to_owned()))
    }

    /// Adds the flag with this name. An unknown name is ignored.
    ///
    /// Names are trimmed and lower-cased first, as Python's `strip().lower()` does.
    fn add(&mut self, name: &str) {
        // Python also strips the four ASCII separators, which are not white space in Unicode.
        let blank = |c: char| c.is_whitespace() || ('\x1c'..='\x1f').contains(&c);
        let name = name.trim_matches(blank).to_lowercase();
        self.0 |= if let Some(word) = name.strip_prefix("subscribe-") {
            AudienceKind::of(word).map_or(0, Self::subscribe_bit)
        } else if let Some(word) = name.strip_prefix("publish-") {
            AudienceKind::of(word).map_or(0, Self::publish_bit)
        } else {
            match &*name {
                "echo" => Self::ECHO,
                "event-names" => Self::EVENT_NAMES,
                Self::PRESENCE_NAME => Self::PRESENCE,
                _ => 0,
            }
        };
    }

    const fn subscribe_bit(kind: AudienceKind) -> u16 {
        1 << kind as u16
    }

    const fn publish_bit(kind: AudienceKind) -> u16 {
        1 << (kind as u16 + 4)
    }
}

/// Lists the flags by name.
impl fmt::Debug for Flags {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut list = f.debug_list();
        for name in self.names() {
            list.entry(&format_args!("{name}"));
        }
        if self.echo() {
            list.entry(&format_args!("echo"));
        }
        if self.event_names() {
            list.entry(&format_args!("event-names"));
        }
        list.finish()
    }
}

/// The parsed target of a client's request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Handshake {
    /// The facility of the connection.
    pub facility: Facility,
    /// The audiences it subscribes and publishes to, and its options.
    pub flags: Flags,
}

/// Why a request target is not a handshake.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum HandshakeError {
    /// The decoded path does not begin with the prefix.
    #[error("the path does not begin with the WebSocket prefix")]
    OutsidePrefix,
    /// The decoded path is not UTF-8.
    #[error("the facility is not valid UTF-8 after percent-decoding")]
    NotUtf8,
    /// The decoded path contains a control character (Unicode category Cc).
    #[error("the facility holds a control character")]
    ControlCharacter,
}

impl Handshake {
    /// Parses the raw path and query of a request target. The prefix is that of the settings, with both slashes.
    ///
    /// # Errors
    ///
    /// When the path does not begin with the prefix, or when the facility is not UTF-8 or contains control characters.
    pub fn parse(path: &str, query: Option<&str>, prefix: &str) -> Result<Self, HandshakeError> {
        let decoded: Cow<'_, [u8]> = percent_decode_str(path).into();
        let facility = decoded.strip_prefix(prefix.as_bytes()).ok_or(HandshakeError::OutsidePrefix)?;
        let facility = std::str::from_utf8(facility).map_err(|_| HandshakeError::NotUtf8)?;
        if facility.chars().any(char::is_control) {
            return Err(HandshakeError::ControlCharacter);
        }
        let mut flags = Flags::default();
        for (name, _) in form_urlencoded::parse(query.unwrap_or_default().as_bytes()) {
            flags.add(&name);
        }
        Ok(Self { facility: Facility::new(facility), flags })
    }
}

/// Returns the decoded values of the query parameters with exactly this name.
pub fn parameters<'a>(query: Option<&'a str>, name: &'a str) -> impl Iterator<Item = Cow<'a, str>> {
    let pairs = form_urlencoded::parse(query.unwrap_or_default().as_bytes());
    pairs.filter(move |(own, _)| own == name).map(|(_, value)| value)
}

/// Returns the decoded query parameters, in order.
pub fn query_pairs(query: Option<&str>) -> impl Iterator<Item = (Cow<'_, str>, Cow<'_, str>)> {
    form_urlencoded::parse(query.unwrap_or_default().as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn flags(query: &str) -> String {
        let handshake = Handshake::parse("/ws/x", Some(query), "/ws/").unwrap();
        format!("{:?}", handshake.flags)
    }

    #[test]
    fn a_facility_is_the_decoded_path_after_the_prefix() {
        let facility = |path| Handshake::parse(path, None, "/ws/").map(|h| h.facility.as_str().to_owned());
        for (path, expected) in [
            ("/ws/foobar", "foobar"),
            ("/ws/foobar/", "foobar/"),
            ("/ws/a/b/c", "a/b/c"),
            ("/ws/", ""),
            ("/ws//x", "/x"),
            ("/ws/ws/x", "ws/x"),
            ("/ws/a%2Fb", "a/b"),
            ("/ws/%C3%A9", "é"),
            ("/ws/a+b", "a+b"),
            ("/ws/a%20b", "a b"),
            ("/ws/a:b", "a:b"),
            ("/ws/a%3Ab", "a:b"),
            ("/ws/{facility}", "{facility}"),
            ("/ws/*", "*"),
            ("/ws/a%3Fb", "a?b"),
            ("/ws/a%23b", "a#b"),
            ("/ws/../x", "../x"),
            ("/ws/%zz", "%zz"),
            ("/%77s/x", "x"),
        ] {
            assert_eq!(facility(path).as_deref(), Ok(expected), "{path}");
        }
        for (path, expected) in [
            ("/ws", HandshakeError::OutsidePrefix),
            ("/other", HandshakeError::OutsidePrefix),
            ("/%FF", HandshakeError::OutsidePrefix),
            ("/ws/%FF", HandshakeError::NotUtf8),
            ("/ws/%C0%AF", HandshakeError::NotUtf8),
            ("/ws/a%00b", HandshakeError::ControlCharacter),
            ("/ws/a%0Ab", HandshakeError::ControlCharacter),
            ("/ws/a%7F", HandshakeError::ControlCharacter),
            ("/ws/a%C2%85", HandshakeError::ControlCharacter),
        ] {
            assert_eq!(facility(path), Err(expected), "{path}");
        }
    }

    #[test]
    fn parameter_names_are_flags() {
        for query in [
            "subscribe-broadcast",
            "subscribe-broadcast=",
            "subscribe-broadcast=0",
            "SUBSCRIBE-Broadcast",
            "%20subscribe-broadcast+",
            "%1Csubscribe-broadcast",
            "subscribe%2Dbroadcast",
            "foo&subscribe-broadcast&bar=1",
            "&&subscribe-broadcast&",
            "subscribe-broadcast&subscribe-broadcast",
        ] {
            assert_eq!(flags(query), "[subscribe-broadcast]", "{query}");
        }
        for query in
            ["", "x=subscribe-broadcast", "subscribe_broadcast", "subscribe", "subscribe-broadcast;echo"]
        {
            assert_eq!(flags(query), "[]", "{query}");
        }
        assert_eq!(flags("echo&publish-user&subscribe-session"), "[publish-user, subscribe-session, echo]");
        assert_eq!(flags("Event-Names&echo"), "[echo, event-names]");
    }

    #[test]
    fn parameters_are_found_by_their_exact_name() {
        for (query, expected) in [
            ("t=a", &["a"][..]),
            ("x=1&t=a%2Eb+c&subscribe-user&t=", &["a.b c", ""]),
            ("%74=a", &["a"]),
            ("t", &[""]),
            ("T=a&t%20=a&tt=a&x=t", &[]),
            ("", &[]),
        ] {
            assert_eq!(parameters(Some(query), "t").collect::<Vec<_>>(), expected, "{query}");
        }
    }

    #[test]
    fn flags_are_converted_to_names_and_back() {
        let handshake = Handshake::parse("/ws/", Some("echo&publish-user&subscribe-user"), "/ws/").unwrap();
        let names: Vec<_> = handshake.flags.names().collect();
        assert_eq!(names, ["subscribe-user", "publish-user"]);
        let read = Flags::named(names.iter().map(String::as_str).chain(["nonsense"]));
        assert_eq!(format!("{read:?}"), "[subscribe-user, publish-user]");
    }

    proptest::proptest! {
        /// Only the trimmed, lower-cased name counts.
        #[test]
        fn a_flag_depends_only_on_its_name(value in "[^&;=]*", blanks in "[+]{0,3}", upper: bool) {
            let name = if upper { "PUBLISH-GROUP" } else { "publish-group" };
            proptest::prop_assert_eq!(flags(&format!("a=b&{blanks}{name}{blanks}={value}")), "[publish-group]");
        }

        /// No path makes the parser panic, and no parsed facility contains a control character.
        #[test]
        fn every_path_is_parsed_or_refused(path in "/ws/(%[0-9a-fA-F]{2}|[ -~]|é){0,20}") {
            if let Ok(handshake) = Handshake::parse(&path, None, "/ws/") {
                proptest::prop_assert!(!handshake.facility.as_str().chars().any(char::is_control));
            }
        }
    }
}
