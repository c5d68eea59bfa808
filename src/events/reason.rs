//! Why a client has disconnected, in the words of the official Socket.IO server and two more.

use crate::hub::Ending;

/// Why a client has disconnected.
///
/// The words of <https://socket.io/docs/v4/server-socket-instance/#disconnect>; `session ended` and `too slow` are ours.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DisconnectReason {
    /// The client has closed the connection.
    TransportClose,
    /// The connection has failed, or a message was too large.
    TransportError,
    /// The client did not answer in time.
    PingTimeout,
    /// The client has violated the protocol.
    ParseError,
    /// The client has left the namespace.
    ClientNamespaceDisconnect,
    /// Django has disconnected the client from the namespace.
    ServerNamespaceDisconnect,
    /// The gateway stops.
    ServerShuttingDown,
    /// The gateway has closed the connection for another reason.
    ForcedServerClose,
    /// The visitor's session has ended, or its rights have.
    SessionEnded,
    /// The client read too slowly.
    TooSlow,
}

impl DisconnectReason {
    /// Returns the words.
    pub const fn words(self) -> &'static str {
        match self {
            Self::TransportClose => "transport close",
            Self::TransportError => "transport error",
            Self::PingTimeout => "ping timeout",
            Self::ParseError => "parse error",
            Self::ClientNamespaceDisconnect => "client namespace disconnect",
            Self::ServerNamespaceDisconnect => "server namespace disconnect",
            Self::ServerShuttingDown => "server shutting down",
            Self::ForcedServerClose => "forced server close",
            Self::SessionEnded => "session ended",
            Self::TooSlow => "too slow",
        }
    }
}

impl From<Ending> for DisconnectReason {
    fn from(ending: Ending) -> Self {
        match ending {
            Ending::Slow | Ending::Torn => Self::TooSlow,
            Ending::Broken => Self::TransportError,
            Ending::Silent => Self::PingTimeout,
            Ending::Restart => Self::ServerShuttingDown,
            Ending::SessionEnded => Self::SessionEnded,
            Ending::Disconnected => Self::TransportClose,
            Ending::Late | Ending::NotConnected | Ending::Overloaded => Self::ForcedServerClose,
        }
    }
}
