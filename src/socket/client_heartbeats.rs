//! Heartbeats of client libraries: texts by which they see whether a connection lives, and which nobody else is to get.

use bytes::{Bytes, BytesMut};

use crate::settings::ClientHeartbeat;
use crate::wire::websocket::{Opcode, encode};

/// What libraries send if nobody tells them otherwise. Only these are ever named in the log: what else clients send is
/// theirs.
const KNOWN: [&str; 16] = [
    "ping",
    "PING",
    "Ping",
    "pong",
    "heartbeat",
    "HEARTBEAT",
    "--heartbeat--",
    "keepalive",
    "keep-alive",
    "{}",
    "\"ping\"",
    r#"{"type":"ping"}"#,
    r#"{"type": "ping"}"#,
    r#"{"event":"ping"}"#,
    r#"{"action":"ping"}"#,
    r#"{"type":"heartbeat"}"#,
];

/// The texts of the settings, each with the frame that answers it; empty where nothing does.
#[derive(Debug, Clone)]
pub struct ClientHeartbeats(Box<[(Bytes, Bytes)]>);

impl ClientHeartbeats {
    /// Takes the texts of the settings.
    pub fn new(list: &[ClientHeartbeat]) -> Self {
        let framed = list.iter().map(|ClientHeartbeat { text, answer }| {
            let mut frame = BytesMut::new();
            if !answer.is_empty() {
                encode(&mut frame, Opcode::Text, answer);
            }
            (text.clone(), frame.freeze())
        });
        Self(framed.collect())
    }

    /// Returns the frame that answers a text, if it is a heartbeat.
    pub fn answer_to(&self, payload: &[u8]) -> Option<&Bytes> {
        self.0.iter().find(|(text, _)| text == payload).map(|(_, frame)| frame)
    }
}

/// Returns the text if it looks like a heartbeat: the client begins with it, as one does that connects again and again
/// because nothing answers, or has sent such a text before, which `seen` counts. People may write "ping", too.
pub(super) fn suspect(payload: &[u8], is_first: bool, seen: &mut u32) -> Option<&'static str> {
    let known = KNOWN.into_iter().find(|known| known.as_bytes() == payload)?;
    *seen = seen.saturating_add(1);
    (is_first || *seen > 1).then_some(known)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_is_suspect_at_first_or_when_it_comes_again() {
        let mut seen = 0;
        let mut suspects = |texts: &[&str], begins: bool| {
            let texts = texts.iter().enumerate();
            let suspects =
                texts.map(|(at, text)| suspect(text.as_bytes(), begins && at == 0, &mut seen).is_some());
            suspects.collect::<Vec<_>>()
        };
        assert_eq!(
            suspects(&["hello", "ping", "pinging", "ping", "{}"], true),
            [false, false, false, true, true]
        );
        seen = 0;
        assert_eq!(suspect(b"ping", true, &mut seen), Some("ping"));
    }
}
