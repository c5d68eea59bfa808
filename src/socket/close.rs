//! Why a connection ends: the only table of close codes (RFC 6455, section 7.4).

use bytes::{Bytes, BytesMut};

use crate::hub::Ending;
use crate::wire::Form;
use crate::wire::socket_io::push_json_string;
use crate::wire::sse::named_event;
use crate::wire::websocket::{Opcode, encode};

/// Why a connection ends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Close {
    /// The client sent a close frame, with this code and reason, or without.
    ByClient(Option<(u16, String)>),
    /// The client disconnected without a close frame.
    Gone,
    /// The socket failed.
    Broken,
    /// The server is stopping ("Service Restart" in the IANA registry of close codes).
    Restart,
    /// The client violated the protocol.
    Protocol(String),
    /// A text or a close reason was not UTF-8.
    NotUtf8,
    /// A message is not JSON.
    NotJson,
    /// A message was larger than allowed.
    TooBig,
    /// The client did not answer a ping.
    Silent,
    /// The client published more than its rule allows.
    TooFast,
    /// The visitor has changed, and the rules do not allow the new identity.
    Denied,
    /// The visitor's session has ended.
    SessionEnded,
    /// A publication may be lost; it is not retried.
    PublicationLost,
    /// The client reads more slowly than messages arrive.
    Slow,
    /// The client reads too slowly, and the outboxes are full. A message was cut off, so no close frame can follow.
    Torn,
    /// Messages were lost during the handshake, after the persisted values were read: a new handshake reads them again.
    Incomplete,
    /// The unfinished messages of all clients together take too much memory.
    Unfinished,
    /// The client did not finish a message in time.
    Late,
    /// Redis cannot be reached, and a publication has waited too long.
    Overloaded,
    /// The client sent an event while too many wait for Redis.
    EventsWaiting,
    /// The client has not joined a namespace in time.
    NotConnected,
    /// The client was refused namespaces too often.
    Refused,
    /// The client is in no namespace any more, or has closed its Engine.IO session.
    Disconnected,
    /// The operator has closed the connection, with this code and reason.
    ByOperator(u16, Box<str>),
}

impl Close {
    /// Returns the code of the close frame; none if the client cannot read one.
    pub fn code(&self) -> Option<u16> {
        match self {
            Self::ByClient(None) | Self::Disconnected => Some(1000),
            Self::ByClient(Some((code, _))) | Self::ByOperator(code, _) => Some(*code),
            Self::Gone | Self::Broken | Self::Torn => None,
            Self::Restart => Some(1012),
            Self::Protocol(_) => Some(1002),
            Self::NotUtf8 | Self::NotJson => Some(1007),
            Self::TooFast | Self::Denied | Self::Late | Self::NotConnected | Self::Refused => Some(1008),
            Self::TooBig => Some(1009),
            Self::SessionEnded => Some(4401),
            Self::Silent | Self::PublicationLost => Some(1011),
            Self::Slow | Self::Incomplete | Self::Overloaded | Self::EventsWaiting | Self::Unfinished => {
                Some(1013)
            }
        }
    }

    /// Returns whether the client reads too slowly.
    pub fn is_slow(&self) -> bool {
        matches!(self, Self::Slow | Self::Torn)
    }

    /// Returns the reason. The frame cuts it to 123 bytes.
    pub fn reason(&self) -> &str {
        match self {
            Self::ByClient(None) => "",
            Self::Gone => "gone",
            Self::Broken => "connection broken",
            Self::Restart => "server is stopping",
            Self::ByClient(Some((_, reason))) | Self::Protocol(reason) => reason,
            Self::NotUtf8 => "text is not valid UTF-8",
            Self::NotJson => "message is not valid JSON",
            Self::TooBig => "message too big",
            Self::TooFast => "publishing too fast",
            Self::Denied => "not allowed any more",
            Self::SessionEnded => "session ended",
            Self::Silent => "no answer to a ping",
            Self::PublicationLost => "message may be lost, redis failed",
            Self::Incomplete => "messages were lost while connecting",
            Self::Unfinished => "too many unfinished messages",
            Self::Late => "message took too long",
            Self::Slow => "reading too slowly",
            Self::Torn => "reading too slowly, outboxes full",
            Self::Overloaded => "redis cannot be reached",
            Self::EventsWaiting => "too many events wait",
            Self::NotConnected => "no namespace joined in time",
            Self::Refused => "refused too often",
            Self::Disconnected => "disconnected",
            Self::ByOperator(_, reason) => reason,
        }
    }

    /// Returns the close frame, or an event with the same content in JSON; none if the client cannot read it.
    pub fn in_form(&self, form: Form) -> Option<Bytes> {
        match form {
            Form::Frames | Form::Packets | Form::PrefixedPackets | Form::Objects => self.frame(),
            Form::Events | Form::NamedEvents | Form::ObjectEvents => {
                let mut text = format!(r#"{{"code":{},"reason":"#, self.code()?);
                push_json_string(&mut text, self.reason());
                text.push('}');
                Some(named_event("close", &text))
            }
        }
    }

    /// Returns the close frame; none if the client cannot read it.
    pub fn frame(&self) -> Option<Bytes> {
        let code = self.code()?;
        let reason = self.reason();
        let reason = &reason[..reason.floor_char_boundary(123)];
        let mut frame = BytesMut::new();
        encode(&mut frame, Opcode::Close, &[&code.to_be_bytes(), reason.as_bytes()].concat());
        Some(frame.freeze())
    }
}

impl From<Ending> for Close {
    fn from(ending: Ending) -> Self {
        match ending {
            Ending::Slow => Self::Slow,
            Ending::Broken => Self::Broken,
            Ending::Late => Self::Late,
            Ending::Torn => Self::Torn,
            Ending::Silent => Self::Silent,
            Ending::Restart => Self::Restart,
            Ending::SessionEnded => Self::SessionEnded,
            Ending::NotConnected => Self::NotConnected,
            Ending::Overloaded => Self::Overloaded,
            Ending::Disconnected => Self::Disconnected,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_reason_fits_into_a_control_frame() {
        let long = "é".repeat(100);
        for close in [
            Close::ByClient(None),
            Close::ByClient(Some((4000, long.clone()))),
            Close::Restart,
            Close::Protocol(long),
            Close::NotUtf8,
            Close::TooBig,
            Close::TooFast,
            Close::SessionEnded,
            Close::Silent,
            Close::PublicationLost,
            Close::Slow,
            Close::Incomplete,
            Close::Overloaded,
            Close::ByOperator(1008, "é".repeat(100).into()),
        ] {
            let frame = close.frame().unwrap();
            assert!(frame.len() <= 127 && frame[1] as usize == frame.len() - 2, "{close:?}");
            assert!(std::str::from_utf8(&frame[4..]).is_ok(), "{close:?}");
        }
        assert_eq!(Close::Gone.frame(), None);
        assert_eq!(&Close::ByClient(None).frame().unwrap()[..], b"\x88\x02\x03\xe8");
    }
}
