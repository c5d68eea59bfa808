//! What a client asks for: the path and the query of its request, as values.

use std::borrow::Cow;
use std::fmt;

use percent_encoding::percent_decode_str;
use url::form_urlencoded;

use super::AudienceKind;

/// The facility: the percent-decoded path behind the prefix, byte for byte. It may be empty.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Facility(Box<str>);

impl Facility {
    /// Takes a facility that is already decoded.
    pub fn new(name: &str) -> Self {
        Self(name.into())
    }

    /// Returns the decoded name.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Tells whether the facility holds a colon, which makes `group:a:b:x` ambiguous.
    pub fn has_colon(&self) -> bool {
        self.0.contains(':')
    }
}

impl fmt::Debug for Facility {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0, f)
    }
}

/// The flags of a handshake: which audiences to hear, which to speak to, `echo` and `event-names`.
#[derive(Clone, Copy, PartialEq, Eq, Default)]
pub struct Flags(u16);

impl Flags {
    const ECHO: u16 = 1 << 8;
    const EVENT_NAMES: u16 = 1 << 9;
    /// What needs no permission.
    const FREE: u16 = Self::ECHO | Self::EVENT_NAMES;

    /// Tells whether `subscribe-<kind>` was asked for.
    pub const fn subscribes(self, kind: AudienceKind) -> bool {
        self.0 & Self::subscribe_bit(kind) != 0
    }

    /// Tells whether `publish-<kind>` was asked for.
    pub const fn publishes(self, kind: AudienceKind) -> bool {
        self.0 & Self::publish_bit(kind) != 0
    }

    /// Tells whether the client wants to get its own messages back.
    pub const fn echo(self) -> bool {
        self.0 & Self::ECHO != 0
    }

    /// Tells whether texts of a stream may name their own event.
    pub const fn event_names(self) -> bool {
        self.0 & Self::EVENT_NAMES != 0
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

    /// Returns the flags of both.
    #[must_use]
    pub const fn and(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// Returns these flags without those that are not allowed. `echo` and `event-names` need no permission.
    #[must_use]
    pub const fn within(self, allowed: Self) -> Self {
        Self(self.0 & (allowed.0 | Self::FREE))
    }

    /// Returns these flags without those that publish.
    #[must_use]
    pub fn without_publish(self) -> Self {
        let publish = AudienceKind::ALL.into_iter().fold(0, |bits, kind| bits | Self::publish_bit(kind));
        Self(self.0 & !publish)
    }

    /// Returns the flags of these names; unknown names change nothing.
    pub fn named<'a>(names: impl IntoIterator<Item = &'a str>) -> Self {
        let mut flags = Self::default();
        names.into_iter().for_each(|name| flags.add(name));
        flags
    }

    /// Returns the names of the flags that need a permission: all but `echo` and `event-names`.
    pub fn names(self) -> impl Iterator<Item = String> {
        AudienceKind::ALL.into_iter().flat_map(move |kind| {
            let subscribe = self.subscribes(kind).then(|| format!("subscribe-{}", kind.word()));
            let publish = self.publishes(kind).then(|| format!("publish-{}", kind.word()));
            subscribe.into_iter().chain(publish)
        })
    }

    /// Adds the flag of that name; an unknown name changes nothing.
    ///
    /// Names are trimmed and lower-cased first, as Python's `strip().lower()` does.
    fn add(&mut self, name: &str) {
        // Python strips the four ASCII separators too; Unicode does not count them as white space.
        let blank = |c: char| c.is_whitespace() || ('\x1c'..='\x1f').contains(&c);
        let name = name.trim_matches(blank).to_lowercase();
        if name == "echo" {
            self.0 |= Self::ECHO;
        }
        if name == "event-names" {
            self.0 |= Self::EVENT_NAMES;
        }
        for kind in AudienceKind::ALL {
            if name.strip_prefix("subscribe-") == Some(kind.word()) {
                self.0 |= Self::subscribe_bit(kind);
            }
            if name.strip_prefix("publish-") == Some(kind.word()) {
                self.0 |= Self::publish_bit(kind);
            }
        }
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

/// What a client asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Handshake {
    /// The room that the client wants to talk in.
    pub facility: Facility,
    /// What it wants to hear there, and to say.
    pub flags: Flags,
}

/// Why a path is no facility.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Malformed {
    /// The decoded path does not begin with the prefix.
    #[error("the path does not begin with the WebSocket prefix")]
    Elsewhere,
    /// The decoded path is not UTF-8.
    #[error("the facility is not valid UTF-8 after percent-decoding")]
    NotUtf8,
    /// The decoded path holds a control character (Unicode category Cc).
    #[error("the facility holds a control character")]
    ControlCharacter,
}

impl Handshake {
    /// Reads the raw path and query of a request target. The prefix is that of the settings, with both slashes.
    ///
    /// # Errors
    ///
    /// When the path lies outside the prefix, or the facility is not UTF-8 or holds control characters.
    pub fn parse(path: &str, query: Option<&str>, prefix: &str) -> Result<Self, Malformed> {
        let decoded: Cow<'_, [u8]> = percent_decode_str(path).into();
        let facility = decoded.strip_prefix(prefix.as_bytes()).ok_or(Malformed::Elsewhere)?;
        let facility = std::str::from_utf8(facility).map_err(|_| Malformed::NotUtf8)?;
        if facility.chars().any(char::is_control) {
            return Err(Malformed::ControlCharacter);
        }
        let mut flags = Flags::default();
        for (name, _) in form_urlencoded::parse(query.unwrap_or_default().as_bytes()) {
            flags.add(&name);
        }
        Ok(Self { facility: Facility::new(facility), flags })
    }
}

/// Returns the values of the query parameters of exactly this name, decoded.
pub fn parameters<'a>(query: Option<&'a str>, name: &'a str) -> impl Iterator<Item = Cow<'a, str>> {
    let pairs = form_urlencoded::parse(query.unwrap_or_default().as_bytes());
    pairs.filter(move |(own, _)| own == name).map(|(_, value)| value)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn flags(query: &str) -> String {
        let handshake = Handshake::parse("/ws/x", Some(query), "/ws/").unwrap();
        format!("{:?}", handshake.flags)
    }

    #[test]
    fn facilities_are_the_decoded_path_behind_the_prefix() {
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
            ("/ws", Malformed::Elsewhere),
            ("/other", Malformed::Elsewhere),
            ("/%FF", Malformed::Elsewhere),
            ("/ws/%FF", Malformed::NotUtf8),
            ("/ws/%C0%AF", Malformed::NotUtf8),
            ("/ws/a%00b", Malformed::ControlCharacter),
            ("/ws/a%0Ab", Malformed::ControlCharacter),
            ("/ws/a%7F", Malformed::ControlCharacter),
            ("/ws/a%C2%85", Malformed::ControlCharacter),
        ] {
            assert_eq!(facility(path), Err(expected), "{path}");
        }
    }

    #[test]
    fn flags_are_parameter_names() {
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
    fn parameters_are_taken_by_their_exact_name() {
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
    fn flags_have_their_names() {
        let handshake = Handshake::parse("/ws/", Some("echo&publish-user&subscribe-user"), "/ws/").unwrap();
        let names: Vec<_> = handshake.flags.names().collect();
        assert_eq!(names, ["subscribe-user", "publish-user"]);
        let read = Flags::named(names.iter().map(String::as_str).chain(["nonsense"]));
        assert_eq!(format!("{read:?}"), "[subscribe-user, publish-user]");
    }

    proptest::proptest! {
        /// The law of the query: only the trimmed, lower-cased name counts, whatever stands around it.
        #[test]
        fn a_flag_counts_by_its_name_alone(value in "[^&;=]*", blanks in "[+]{0,3}", upper: bool) {
            let name = if upper { "PUBLISH-GROUP" } else { "publish-group" };
            proptest::prop_assert_eq!(flags(&format!("a=b&{blanks}{name}{blanks}={value}")), "[publish-group]");
        }

        /// No path makes the parser panic, and no facility it yields holds a control character.
        #[test]
        fn every_path_is_a_facility_or_refused(path in "/ws/(%[0-9a-fA-F]{2}|[ -~]|é){0,20}") {
            if let Ok(handshake) = Handshake::parse(&path, None, "/ws/") {
                proptest::prop_assert!(!handshake.facility.as_str().chars().any(char::is_control));
            }
        }
    }
}
