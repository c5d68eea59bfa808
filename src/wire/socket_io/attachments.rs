//! Collects the binary packets that follow a packet with attachments.

use bytes::Bytes;

use super::packet::{SocketPacket, SocketType};

/// The limits of one message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MessageLimits {
    /// Most bytes of JSON.
    pub text_bytes: usize,
    /// Most attachments.
    pub attachments: usize,
    /// Most bytes of one attachment.
    pub attachment_bytes: usize,
    /// Most bytes of the JSON and all attachments together.
    pub total_bytes: usize,
}

/// Why a packet or an attachment cannot be accepted now. Each ends the session.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum AttachmentError {
    /// A text packet came while attachments were missing: nothing may come between them.
    #[error("a packet came between an event and its attachments")]
    Interrupted,
    /// No packet waits for an attachment.
    #[error("an attachment came that no packet announced")]
    Unexpected,
    /// An attachment, or the whole message, exceeds the limits.
    #[error("the message and its attachments are too large")]
    TooLarge,
}

/// A message with all its attachments.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BinaryMessage {
    kind: SocketType,
    namespace: Box<str>,
    id: Option<u64>,
    data: Box<str>,
    expected: usize,
    attachments: Vec<Bytes>,
}

impl BinaryMessage {
    /// Returns the packet of the message.
    pub fn packet(&self) -> SocketPacket<'_> {
        let Self { kind, namespace, id, data, expected, .. } = self;
        SocketPacket { kind: *kind, attachments: *expected, namespace, query: None, id: *id, data }
    }

    /// Returns the attachments in the order of their numbers.
    pub fn attachments(&self) -> &[Bytes] {
        &self.attachments
    }

    fn bytes(&self) -> usize {
        self.data.len() + self.attachments.iter().map(Bytes::len).sum::<usize>()
    }
}

/// The reassembly of one session, which outlives a change of transport: an event may come in a POST and its attachment in a
/// WebSocket message. An idle session pays for one pointer.
#[derive(Debug, Default)]
pub struct AttachmentCollector(Option<Box<BinaryMessage>>);

impl AttachmentCollector {
    /// Returns how many bytes are kept until the message is complete.
    pub fn bytes(&self) -> usize {
        self.0.as_ref().map_or(0, |message| message.bytes())
    }

    /// Takes a packet of text and returns it at once if it needs no attachments, else keeps a copy.
    ///
    /// # Errors
    ///
    /// When attachments of an earlier packet are missing.
    pub fn take_packet<'a>(
        &mut self,
        packet: SocketPacket<'a>,
    ) -> Result<Option<SocketPacket<'a>>, AttachmentError> {
        if self.0.is_some() {
            return Err(AttachmentError::Interrupted);
        }
        if packet.attachments == 0 {
            return Ok(Some(packet));
        }
        self.0 = Some(Box::new(BinaryMessage {
            kind: packet.kind,
            namespace: packet.namespace.into(),
            id: packet.id,
            data: packet.data.into(),
            expected: packet.attachments,
            // Not reserved: the client has only announced them.
            attachments: Vec::new(),
        }));
        Ok(None)
    }

    /// Takes an attachment and returns the message that it completes.
    ///
    /// # Errors
    ///
    /// When no packet waits for it, or a limit is exceeded. The incomplete message is dropped.
    pub fn take_attachment(
        &mut self,
        attachment: Bytes,
        limits: MessageLimits,
    ) -> Result<Option<BinaryMessage>, AttachmentError> {
        let mut message = self.0.take().ok_or(AttachmentError::Unexpected)?;
        let total = message.bytes().saturating_add(attachment.len());
        if attachment.len() > limits.attachment_bytes || total > limits.total_bytes {
            return Err(AttachmentError::TooLarge);
        }
        message.attachments.push(attachment);
        if message.attachments.len() == message.expected {
            return Ok(Some(*message));
        }
        self.0 = Some(message);
        Ok(None)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::engine_io::EngineVersion;

    const LIMITS: MessageLimits =
        MessageLimits { text_bytes: 100, attachments: 3, attachment_bytes: 4, total_bytes: 12 };

    fn packet(text: &str) -> SocketPacket<'_> {
        SocketPacket::decode(EngineVersion::V4, text, LIMITS.attachments).unwrap()
    }

    fn take(
        collector: &mut AttachmentCollector,
        bytes: &'static [u8],
    ) -> Result<Option<usize>, AttachmentError> {
        let message = collector.take_attachment(Bytes::from_static(bytes), LIMITS)?;
        Ok(message.map(|message| message.attachments().len()))
    }

    #[test]
    fn a_message_is_complete_with_its_last_attachment() {
        let mut collector = AttachmentCollector::default();
        assert_eq!(collector.take_packet(packet(r#"2["a"]"#)), Ok(Some(packet(r#"2["a"]"#))));
        assert_eq!(collector.take_packet(packet(r#"50-["a"]"#)), Ok(Some(packet(r#"50-["a"]"#))));
        let binary = packet(r#"52-/x,7["a"]"#);
        assert_eq!(collector.take_packet(binary), Ok(None));
        assert_eq!(take(&mut collector, b"12"), Ok(None));
        assert_eq!(collector.bytes(), 7);
        let message = collector.take_attachment(Bytes::from_static(b""), LIMITS).unwrap().unwrap();
        assert_eq!(message.packet(), binary);
        assert_eq!(message.attachments(), [&b"12"[..], b""]);
        assert_eq!(collector.bytes(), 0);
        assert_eq!(collector.take_packet(packet("1")), Ok(Some(packet("1"))));
    }

    #[test]
    fn nothing_comes_between_and_nothing_unannounced() {
        let mut collector = AttachmentCollector::default();
        assert_eq!(take(&mut collector, b"1"), Err(AttachmentError::Unexpected));
        assert_eq!(collector.take_packet(packet(r#"51-["a"]"#)), Ok(None));
        assert_eq!(collector.take_packet(packet(r#"2["a"]"#)), Err(AttachmentError::Interrupted));
    }

    #[test]
    fn bytes_are_bounded() {
        let mut collector = AttachmentCollector::default();
        assert_eq!(collector.take_packet(packet(r#"53-["a"]"#)), Ok(None));
        assert_eq!(take(&mut collector, b"12345"), Err(AttachmentError::TooLarge));
        assert_eq!(collector.bytes(), 0);
        assert_eq!(collector.take_packet(packet(r#"53-["a"]"#)), Ok(None));
        assert_eq!(take(&mut collector, b"1234"), Ok(None));
        assert_eq!(take(&mut collector, b"123"), Ok(None));
        assert_eq!(take(&mut collector, b"1"), Err(AttachmentError::TooLarge));
        assert_eq!(size_of::<AttachmentCollector>(), size_of::<usize>());
    }
}
