//! The kinds of events that Django can be told about, apart from the events of Socket.IO clients.

/// A kind of event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EventKind {
    /// A client has connected.
    Connect,
    /// A client has disconnected.
    Disconnect,
    /// The user of a connected client has changed.
    User,
    /// A user has come online.
    Online,
    /// A user has gone offline.
    Offline,
    /// A client has published a message.
    Message,
    /// The gateway has started, or stops.
    Node,
}

/// A set of kinds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct EventKinds(u8);

impl EventKind {
    /// All kinds.
    pub const ALL: [Self; 7] =
        [Self::Connect, Self::Disconnect, Self::User, Self::Online, Self::Offline, Self::Message, Self::Node];

    /// Returns the name of the kind, in settings and in events.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Connect => "connect",
            Self::Disconnect => "disconnect",
            Self::User => "user",
            Self::Online => "online",
            Self::Offline => "offline",
            Self::Message => "message",
            Self::Node => "node",
        }
    }

    /// Returns the kind with a name.
    pub fn parse(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.word() == word)
    }
}

impl EventKinds {
    /// Returns whether the set contains a kind.
    pub const fn contains(self, kind: EventKind) -> bool {
        self.0 & 1 << kind as u8 != 0
    }
}

impl FromIterator<EventKind> for EventKinds {
    fn from_iter<I: IntoIterator<Item = EventKind>>(kinds: I) -> Self {
        Self(kinds.into_iter().fold(0, |set, kind| set | 1 << kind as u8))
    }
}
