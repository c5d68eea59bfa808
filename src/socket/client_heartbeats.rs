//! Heartbeats of client libraries: texts that the server answers, and never publishes.

use bytes::{Bytes, BytesMut};

use crate::settings::ClientHeartbeat;
use crate::wire::websocket::{Opcode, encode};

/// The texts of the settings, each with the frame of its answer; empty if it is not answered.
#[derive(Debug, Clone)]
pub struct ClientHeartbeats(Box<[(Bytes, Bytes)]>);

impl ClientHeartbeats {
    /// Encodes the answers of the settings.
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

    /// Returns the frame of a heartbeat's answer; none if the text is no heartbeat.
    pub fn answer_to(&self, payload: &[u8]) -> Option<&Bytes> {
        self.0.iter().find(|(text, _)| text == payload).map(|(_, frame)| frame)
    }
}
