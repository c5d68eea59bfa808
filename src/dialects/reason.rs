//! Why a client has disconnected, from why its connection ends.

use crate::events::DisconnectReason;
use crate::socket::Close;

/// Returns the reason that Django is told.
pub(super) fn reason_of(close: &Close) -> DisconnectReason {
    match close {
        Close::ByClient(_) | Close::Gone | Close::Disconnected => DisconnectReason::TransportClose,
        Close::Broken | Close::TooBig => DisconnectReason::TransportError,
        Close::Silent => DisconnectReason::PingTimeout,
        Close::Protocol(_) | Close::NotUtf8 | Close::NotJson => DisconnectReason::ParseError,
        Close::Restart => DisconnectReason::ServerShuttingDown,
        Close::Denied | Close::SessionEnded => DisconnectReason::SessionEnded,
        Close::Slow | Close::Torn => DisconnectReason::TooSlow,
        Close::TooFast
        | Close::PublicationLost
        | Close::Incomplete
        | Close::Unfinished
        | Close::Late
        | Close::Overloaded
        | Close::EventsWaiting
        | Close::NotConnected
        | Close::ByOperator(..)
        | Close::Refused => DisconnectReason::ForcedServerClose,
    }
}
