//! Decoding of polling payloads.

use std::borrow::Cow;

use bytes::Bytes;

use super::packet::{EnginePacket, EnginePacketError, attachment_v3, decode_text};
use super::payload::{END_OF_LENGTH, PayloadForm, SEPARATOR};

/// Most digits of a length in protocol 3. No body is longer.
const MAX_LENGTH_DIGITS: usize = 10;

/// The limits and options of decoding.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PayloadRules {
    /// Largest payload, in bytes. Decoded packets together take no more.
    pub max_bytes: usize,
    /// Most packets in a payload.
    pub max_packets: usize,
    /// Undo the double UTF-8 encoding of JavaScript clients 1.x in [`PayloadForm::LengthPrefixed`].
    pub repair_text: bool,
}

/// Decodes a payload packet by packet, so that the caller decides how many it keeps. Ends after the first error.
#[derive(Debug)]
pub struct PayloadDecoder<'a> {
    form: PayloadForm,
    /// UTF-8 in the forms of text.
    rest: &'a [u8],
    is_done: bool,
    packets_left: usize,
    repair_text: bool,
}

impl<'a> PayloadDecoder<'a> {
    /// Starts with a whole body.
    ///
    /// # Errors
    ///
    /// When the body is too large, empty, or not UTF-8 in a form of text.
    pub fn new(form: PayloadForm, body: &'a [u8], rules: PayloadRules) -> Result<Self, EnginePacketError> {
        if body.len() > rules.max_bytes {
            return Err(EnginePacketError::TooLarge);
        }
        if body.is_empty() {
            return Err(EnginePacketError::Empty);
        }
        if form != PayloadForm::Binary {
            std::str::from_utf8(body).map_err(|_| EnginePacketError::NotUtf8)?;
        }
        let PayloadRules { max_packets, repair_text, .. } = rules;
        Ok(Self { form, rest: body, is_done: false, packets_left: max_packets, repair_text })
    }

    fn packet(&mut self) -> Result<EnginePacket<'a>, EnginePacketError> {
        self.packets_left = self.packets_left.checked_sub(1).ok_or(EnginePacketError::TooManyPackets)?;
        match self.form {
            PayloadForm::Records => {
                let end = self.rest.iter().position(|byte| *byte == SEPARATOR);
                let record = self.take(end.unwrap_or(self.rest.len()))?;
                match end {
                    // What follows the separator is a packet, even if it is empty and thus an error.
                    Some(_) => self.rest = &self.rest[1..],
                    None => self.is_done = true,
                }
                decode_text(self.form.version(), utf8(record)?)
            }
            PayloadForm::LengthPrefixed => {
                let units = self.length(b':', b'0')?;
                let packet = utf8(self.take(utf16_prefix(self.rest, units)?)?)?;
                self.is_done = self.rest.is_empty();
                self.text_v3(packet)
            }
            PayloadForm::Binary => {
                let is_binary = match self.take(1)? {
                    [0] => false,
                    [1] => true,
                    _ => return Err(EnginePacketError::UnknownType),
                };
                let length = self.length(END_OF_LENGTH, 0)?;
                let packet = self.take(length)?;
                self.is_done = self.rest.is_empty();
                if is_binary {
                    // Copied: a small attachment must not keep the whole body in memory.
                    attachment_v3(packet).map(Bytes::copy_from_slice).map(EnginePacket::Attachment)
                } else {
                    decode_text(self.form.version(), utf8(packet)?)
                }
            }
        }
    }

    fn text_v3(&self, packet: &'a str) -> Result<EnginePacket<'a>, EnginePacketError> {
        match if self.repair_text { decode_twice(packet) } else { None } {
            // The type digit is ASCII, hence the same before and after.
            Some(text) => match decode_text(self.form.version(), &text)? {
                EnginePacket::Text(kind, data) => Ok(EnginePacket::Text(kind, Cow::Owned(data.into_owned()))),
                EnginePacket::Attachment(bytes) => Ok(EnginePacket::Attachment(bytes)),
            },
            None => decode_text(self.form.version(), packet),
        }
    }

    /// Reads decimal digits counted from `zero`, and the byte that ends them.
    fn length(&mut self, end: u8, zero: u8) -> Result<usize, EnginePacketError> {
        let mut length = 0_u64;
        for (count, &byte) in self.rest.iter().enumerate().take(MAX_LENGTH_DIGITS + 1) {
            if byte == end && count > 0 {
                self.rest = &self.rest[count + 1..];
                let length = usize::try_from(length).map_err(|_| EnginePacketError::InvalidLength)?;
                return if length == 0 { Err(EnginePacketError::Empty) } else { Ok(length) };
            }
            match byte.checked_sub(zero) {
                Some(digit @ 0..=9) if count < MAX_LENGTH_DIGITS => length = length * 10 + u64::from(digit),
                _ => break,
            }
        }
        Err(EnginePacketError::InvalidLength)
    }

    fn take(&mut self, count: usize) -> Result<&'a [u8], EnginePacketError> {
        let (taken, rest) = self.rest.split_at_checked(count).ok_or(EnginePacketError::InvalidLength)?;
        self.rest = rest;
        Ok(taken)
    }
}

impl<'a> Iterator for PayloadDecoder<'a> {
    type Item = Result<EnginePacket<'a>, EnginePacketError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.is_done {
            return None;
        }
        let packet = self.packet();
        self.is_done |= packet.is_err();
        Some(packet)
    }
}

fn utf8(bytes: &[u8]) -> Result<&str, EnginePacketError> {
    std::str::from_utf8(bytes).map_err(|_| EnginePacketError::NotUtf8)
}

/// Returns the number of bytes of the first `units` UTF-16 units of valid UTF-8. A length that ends within a surrogate pair
/// is invalid.
fn utf16_prefix(text: &[u8], units: usize) -> Result<usize, EnginePacketError> {
    if text.get(..units).is_some_and(<[u8]>::is_ascii) {
        return Ok(units);
    }
    let mut left = units;
    for (at, byte) in text.iter().enumerate() {
        if is_continuation(*byte) {
            continue;
        }
        if left == 0 {
            return Ok(at);
        }
        // Characters of four bytes are surrogate pairs.
        left = left.checked_sub(if *byte < 0xf0 { 1 } else { 2 }).ok_or(EnginePacketError::InvalidLength)?;
    }
    if left == 0 { Ok(text.len()) } else { Err(EnginePacketError::InvalidLength) }
}

fn is_continuation(byte: u8) -> bool {
    byte & 0xc0 == 0x80
}

/// Undoes the double encoding of JavaScript clients 1.x on polling, which send each byte of the UTF-8 as a character: `ż`
/// arrives as `Å¼`. `None` if the text cannot have been encoded twice.
fn decode_twice(text: &str) -> Option<String> {
    if text.is_ascii() {
        return None;
    }
    let bytes: Vec<u8> = text.chars().map(|c| u8::try_from(c).ok()).collect::<Option<_>>()?;
    String::from_utf8(bytes).ok()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::PayloadForm::{Binary, LengthPrefixed, Records};
    use super::*;
    use crate::wire::engine_io::packet::EngineType;
    use crate::wire::engine_io::payload::{push_attachment, push_packet};
    use bytes::BytesMut;

    const RULES: PayloadRules = PayloadRules { max_bytes: 1_000, max_packets: 5, repair_text: true };

    fn decode(form: PayloadForm, body: &[u8]) -> Result<Vec<String>, EnginePacketError> {
        let show = |packet| match packet {
            EnginePacket::Text(kind, data) => format!("{}{data}", kind.digit()),
            EnginePacket::Attachment(bytes) => format!("{bytes:?}"),
        };
        PayloadDecoder::new(form, body, RULES)?.map(|packet| packet.map(show)).collect()
    }

    #[track_caller]
    fn check(form: PayloadForm, body: impl AsRef<[u8]>, expected: &[&str]) {
        assert_eq!(decode(form, body.as_ref()).unwrap(), expected);
    }

    #[test]
    fn protocol_4_separates_packets() {
        check(Records, "4hello\x1ebAQIDBA==", &["4hello", r#"b"\x01\x02\x03\x04""#]);
        check(Records, "2", &["2"]);
        check(Records, "4\x1e4€", &["4", "4€"]);
        for (body, error) in [
            (&b""[..], EnginePacketError::Empty),
            (b"4a\x1e", EnginePacketError::Empty),
            (b"\x1e4a", EnginePacketError::Empty),
            (b"4a\x1e\x1e4b", EnginePacketError::Empty),
            (b"abc", EnginePacketError::UnknownType),
            (b"4\xff", EnginePacketError::NotUtf8),
            (b"bA", EnginePacketError::InvalidBase64),
            (b"2\x1e2\x1e2\x1e2\x1e2\x1e2", EnginePacketError::TooManyPackets),
            (&[b'4'; 1_001], EnginePacketError::TooLarge),
        ] {
            assert_eq!(decode(Records, body), Err(error), "{body:?}");
        }
    }

    /// The bodies of the contract, recorded from real clients.
    #[test]
    fn protocol_3_counts_utf_16_units() {
        let event = r#"451-["welcome",{"_placeholder":true,"num":0}]"#;
        check(
            LengthPrefixed,
            r#"2:4045:451-["welcome",{"_placeholder":true,"num":0}]6:b4AQID"#,
            &["40", event, r#"b"\x01\x02\x03""#],
        );
        check(LengthPrefixed, "10:b4AQIDBA==", &[r#"b"\x01\x02\x03\x04""#]);
        check(LengthPrefixed, "2:4€3:4🎉1:6", &["4€", "4🎉", "6"]);
        for body in [
            "",
            "0:",
            ":4",
            "4",
            "2:4",
            "3:4a",
            "2:4🎉",
            "-1:4",
            "+1:4",
            " 1:4",
            "1.0:4",
            "12345678901:4",
            "2:4a:",
            "1:4\n",
        ] {
            let error = decode(LengthPrefixed, body.as_bytes()).unwrap_err();
            let is_expected = matches!(error, EnginePacketError::InvalidLength | EnginePacketError::Empty);
            assert!(is_expected, "{body:?}: {error:?}");
        }
    }

    #[test]
    fn text_that_was_encoded_twice_is_repaired() {
        check(LengthPrefixed, "6:4Å¼â\u{82}¬", &["4ż€"]);
        // Characters above U+00FF, or bytes that are not UTF-8, were encoded once.
        check(LengthPrefixed, "4:4Å¼€", &["4Å¼€"]);
        check(LengthPrefixed, "2:4é", &["4é"]);
        check(Records, "4Å¼", &["4Å¼"]);
        check(Binary, [&b"\0\x05\xff"[..], "4Å¼".as_bytes()].concat(), &["4Å¼"]);
        let rules = PayloadRules { repair_text: false, ..RULES };
        let mut packets = PayloadDecoder::new(LengthPrefixed, "3:4Å¼".as_bytes(), rules).unwrap();
        assert_eq!(packets.next(), Some(Ok(EnginePacket::Text(EngineType::Message, "Å¼".into()))));
    }

    #[test]
    fn protocol_3_has_a_binary_form() {
        let body = b"\x00\x06\xff4hello\x01\x05\xff\x04\x01\x02\x03\x04";
        check(Binary, body, &["4hello", r#"b"\x01\x02\x03\x04""#]);
        let mut payload = BytesMut::new();
        push_packet(&mut payload, Binary, "4hello");
        push_attachment(&mut payload, Binary, &[1, 2, 3, 4]);
        assert_eq!(&payload[..], body);
        for (body, error) in [
            (&b"\x02\x01\xff4"[..], EnginePacketError::UnknownType),
            (b"\x00\xff", EnginePacketError::InvalidLength),
            (b"\x00\x01", EnginePacketError::InvalidLength),
            (b"\x00\x0a\xff4", EnginePacketError::InvalidLength),
            (b"\x00\x02\xff4", EnginePacketError::InvalidLength),
            (b"\x00\x00\xff", EnginePacketError::Empty),
            (b"\x00\x09\x09\x09\x09\x09\x09\x09\x09\x09\x09\x09\xff4", EnginePacketError::InvalidLength),
            (b"\x01\x01\xff4", EnginePacketError::UnknownType),
            (b"\x00\x02\xff4\xff", EnginePacketError::NotUtf8),
        ] {
            assert_eq!(decode(Binary, body), Err(error), "{body:?}");
        }
    }

    fn any_form() -> impl Strategy<Value = PayloadForm> {
        prop::sample::select(vec![Records, LengthPrefixed, Binary])
    }

    proptest! {
        #[test]
        fn what_is_encoded_is_decoded(
            form in any_form(),
            packets in prop::collection::vec(prop_oneof![
                ("[0-6][^\x1e]{0,20}").prop_map(Ok),
                prop::collection::vec(any::<u8>(), 0..20).prop_map(Err),
            ], 1..6),
        ) {
            let mut payload = BytesMut::new();
            for packet in &packets {
                match packet {
                    Ok(text) => push_packet(&mut payload, form, text),
                    Err(bytes) => push_attachment(&mut payload, form, bytes),
                }
            }
            let rules = PayloadRules { max_bytes: 10_000, repair_text: false, ..RULES };
            let decoded: Vec<_> = PayloadDecoder::new(form, &payload, rules).unwrap().map(|packet| match packet.unwrap() {
                EnginePacket::Text(kind, data) => Ok(format!("{}{data}", kind.digit())),
                EnginePacket::Attachment(bytes) => Err(bytes.to_vec()),
            }).collect();
            prop_assert_eq!(decoded, packets);
        }

        /// Whatever a client posts, what is decoded stays within the limits.
        #[test]
        fn any_body_stays_within_the_limits(
            form in any_form(),
            body in prop_oneof![
                prop::collection::vec(any::<u8>(), 0..60),
                "[0-9:4b\x1eA=é🎉]{0,40}".prop_map(String::into_bytes),
                prop::collection::vec(prop::sample::select(vec![0, 1, 2, 3, 4, b'4', 0xff]), 0..30),
            ],
        ) {
            let Ok(packets) = PayloadDecoder::new(form, &body, RULES) else { return Ok(()) };
            let packets: Vec<_> = packets.flatten().collect();
            let size = |packet: &EnginePacket<'_>| match packet {
                EnginePacket::Text(_, data) => data.len(),
                EnginePacket::Attachment(bytes) => bytes.len(),
            };
            prop_assert!(packets.len() <= RULES.max_packets);
            prop_assert!(packets.iter().map(size).sum::<usize>() <= body.len());
        }
    }
}
