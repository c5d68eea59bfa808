//! Payloads of long polling: several packets in one HTTP body.

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use bytes::{BufMut, BytesMut};

use super::packet::{EngineType, EngineVersion, MESSAGE_BYTE};

/// Separates packets in protocol 4.
pub(super) const SEPARATOR: u8 = 0x1e;

/// Ends the length of a packet in the binary form of protocol 3.
pub(super) const END_OF_LENGTH: u8 = 0xff;

/// The form of a payload.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PayloadForm {
    /// Protocol 4: packets joined by the byte 0x1E, attachments in base64.
    Records,
    /// Protocol 3 in text: `<length>:<packet>`, attachments in base64. The length counts UTF-16 units, because it is
    /// `string.length` in JavaScript.
    LengthPrefixed,
    /// Protocol 3 in binary: one byte for text or binary, the length in bytes as decimal digits of value 0 to 9, the
    /// byte 0xFF, and the packet.
    Binary,
}

impl PayloadForm {
    /// Returns the form of a request's body.
    pub const fn of_request(version: EngineVersion, is_octet_stream: bool) -> Self {
        match version {
            EngineVersion::V4 => Self::Records,
            EngineVersion::V3 if is_octet_stream => Self::Binary,
            EngineVersion::V3 => Self::LengthPrefixed,
        }
    }

    /// Returns the form of a response. The binary form is for payloads with an attachment, to clients that did not ask
    /// for base64 with `b64=1`: old clients read text in it differently from each other.
    pub const fn of_response(version: EngineVersion, wants_base64: bool, has_attachment: bool) -> Self {
        Self::of_request(version, has_attachment && !wants_base64)
    }

    /// Returns the `Content-Type` of a response.
    pub const fn content_type(self) -> &'static str {
        match self {
            Self::Records | Self::LengthPrefixed => "text/plain; charset=UTF-8",
            Self::Binary => "application/octet-stream",
        }
    }

    pub(super) const fn version(self) -> EngineVersion {
        match self {
            Self::Records => EngineVersion::V4,
            Self::LengthPrefixed | Self::Binary => EngineVersion::V3,
        }
    }
}

/// Returns the length of a text as JavaScript counts it.
pub fn utf16_length(text: &str) -> usize {
    if text.is_ascii() { text.len() } else { text.chars().map(char::len_utf16).sum() }
}

/// Appends a packet of text, its type digit included.
///
/// Protocol 3's text must be ASCII if it is for a client 1.x or a client of unknown version, because they decode other
/// characters differently.
pub fn push_packet(payload: &mut BytesMut, form: PayloadForm, packet: &str) {
    match form {
        PayloadForm::Records => separate(payload),
        PayloadForm::LengthPrefixed => push_length(payload, utf16_length(packet)),
        PayloadForm::Binary => push_binary_length(payload, 0, packet.len()),
    }
    payload.put_slice(packet.as_bytes());
}

/// Appends an attachment.
pub fn push_attachment(payload: &mut BytesMut, form: PayloadForm, attachment: &[u8]) {
    let encoded_length = attachment.len().div_ceil(3) * 4;
    match form {
        PayloadForm::Records => {
            separate(payload);
            payload.put_u8(b'b');
        }
        PayloadForm::LengthPrefixed => {
            push_length(payload, 2 + encoded_length);
            payload.put_slice(&[b'b', b'0' + EngineType::Message as u8]);
        }
        PayloadForm::Binary => {
            push_binary_length(payload, 1, 1 + attachment.len());
            payload.put_u8(MESSAGE_BYTE);
            payload.put_slice(attachment);
            return;
        }
    }
    let start = payload.len();
    payload.resize(start + encoded_length, 0);
    // The space is exact, so nothing can be refused.
    let written = BASE64_STANDARD.encode_slice(attachment, &mut payload[start..]);
    debug_assert_eq!(written, Ok(encoded_length));
}

fn separate(payload: &mut BytesMut) {
    if !payload.is_empty() {
        payload.put_u8(SEPARATOR);
    }
}

fn push_length(payload: &mut BytesMut, length: usize) {
    payload.put_slice(length.to_string().as_bytes());
    payload.put_u8(b':');
}

fn push_binary_length(payload: &mut BytesMut, is_binary: u8, length: usize) {
    payload.put_u8(is_binary);
    payload.extend(length.to_string().bytes().map(|digit| digit - b'0'));
    payload.put_u8(END_OF_LENGTH);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_form_follows_from_version_and_content() {
        use EngineVersion::{V3, V4};
        use PayloadForm::{Binary, LengthPrefixed, Records};
        assert_eq!(PayloadForm::of_request(V3, true), Binary);
        assert_eq!(PayloadForm::of_response(V3, false, true), Binary);
        assert_eq!(PayloadForm::of_response(V3, true, true), LengthPrefixed);
        assert_eq!(PayloadForm::of_response(V3, false, false), LengthPrefixed);
        assert_eq!(PayloadForm::of_response(V4, false, true), Records);
        assert_eq!(Binary.content_type(), "application/octet-stream");
    }
}
