//! The data of an event or an acknowledgement: JSON, and the attachments to which its placeholders refer.

use std::fmt::Write;

use bytes::Bytes;

use super::attachments::MessageLimits;
use super::json::{InvalidJson, MAX_JSON_DEPTH, push_compact_json, validate_json};
use super::packet::is_reserved_event;
use super::strings::{escaped_length, push_escaped, push_float, push_json_string, push_unit};
use super::tokens::unescape_json;

/// Most attachments of one event. `socket.io-parser` 4.2 takes more for an attack, and its client closes the connection.
const MAX_ATTACHMENTS: usize = 10;

/// The data of an event (its name and its arguments) or of an acknowledgement (its arguments), encoded once for all forms.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EventData {
    json: String,
    attachments: Vec<Bytes>,
    replaced: usize,
}

/// Why a value cannot be sent to clients.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum InvalidEventData {
    /// It exceeds the caller's limits.
    #[error("the event exceeds a limit")]
    TooLarge,
    /// It is not valid JSON, too deep, or has an invalid placeholder.
    #[error(transparent)]
    Json(#[from] InvalidJson),
    /// The name is neither a string nor a number, a key of a map is a container, or an integer is not decimal.
    #[error("the event has a value that JSON cannot express")]
    Unsupported,
    /// The name is reserved: clients would take the packet for invalid, and close their connections.
    #[error("the name of the event is reserved")]
    ReservedName,
}

impl EventData {
    /// Returns the array of JSON.
    pub fn json(&self) -> &str {
        &self.json
    }

    /// Returns the attachments in the order of their numbers.
    pub fn attachments(&self) -> &[Bytes] {
        &self.attachments
    }

    /// Returns how many `NaN` and infinities became null.
    pub fn replaced(&self) -> usize {
        self.replaced
    }

    /// Joins JSON of a publisher: the raw name, and each raw argument. Placeholders are checked if there are attachments,
    /// or if `is_binary` says that there should be.
    ///
    /// # Errors
    ///
    /// When the JSON is invalid, the name is reserved, or a limit is exceeded.
    pub fn from_json<'a>(
        name: Option<&'a str>,
        arguments: impl IntoIterator<Item = &'a str>,
        attachments: Vec<Bytes>,
        is_binary: bool,
        limits: MessageLimits,
    ) -> Result<Self, InvalidEventData> {
        // `-Infinity` would become null, which is no name.
        let is_name = |json: &str| {
            matches!(json.trim_start().as_bytes(), [b'"' | b'0'..=b'9', ..] | [b'-', b'0'..=b'9', ..])
        };
        if name.is_some_and(|name| !is_name(name)) {
            return Err(InvalidEventData::Unsupported);
        }
        if name.and_then(|name| unescape_json(name.trim())).is_some_and(|name| is_reserved_event(&name)) {
            return Err(InvalidEventData::ReservedName);
        }
        let mut writer = EventDataWriter::new(limits);
        let count = (is_binary || !attachments.is_empty()).then_some(attachments.len());
        for attachment in attachments {
            writer.attach(attachment)?;
        }
        for json in name.into_iter().chain(arguments) {
            writer.begin_value();
            writer.room_for(json.len())?;
            writer.replaced += push_compact_json(&mut writer.out, json, count)?;
        }
        writer.finish()
    }
}

/// Writes [`EventData`] value by value, for readers that have values of their own: no [`EventValue`](super::EventValue) is built. The caller
/// closes what it begins; methods fail as soon as a limit is exceeded.
#[derive(Debug)]
pub struct EventDataWriter {
    out: String,
    attachments: Vec<Bytes>,
    limits: MessageLimits,
    attachment_bytes: usize,
    depth: usize,
    needs_comma: bool,
    has_mark: bool,
    replaced: usize,
}

impl EventDataWriter {
    /// Starts the array. Its first value is the name of the event, unless it is for an acknowledgement.
    pub fn new(limits: MessageLimits) -> Self {
        Self {
            out: String::from("["),
            attachments: Vec::new(),
            limits: MessageLimits { attachments: limits.attachments.min(MAX_ATTACHMENTS), ..limits },
            attachment_bytes: 0,
            depth: 1,
            needs_comma: false,
            has_mark: false,
            replaced: 0,
        }
    }

    fn begin_value(&mut self) {
        if std::mem::replace(&mut self.needs_comma, true) {
            self.out.push(',');
        }
    }

    fn check(&self) -> Result<(), InvalidEventData> {
        let total = self.out.len().saturating_add(self.attachment_bytes);
        let is_within = self.out.len() <= self.limits.text_bytes && total <= self.limits.total_bytes;
        if is_within { Ok(()) } else { Err(InvalidEventData::TooLarge) }
    }

    fn literal(&mut self, text: &str) -> Result<(), InvalidEventData> {
        self.begin_value();
        self.out.push_str(text);
        self.check()
    }

    /// Writes null.
    ///
    /// # Errors
    ///
    /// When a limit is exceeded, as in all methods.
    pub fn null(&mut self) -> Result<(), InvalidEventData> {
        self.literal("null")
    }

    /// Writes a boolean.
    ///
    /// # Errors
    ///
    /// When a limit is exceeded.
    pub fn bool(&mut self, value: bool) -> Result<(), InvalidEventData> {
        self.literal(if value { "true" } else { "false" })
    }

    /// Writes an integer.
    ///
    /// # Errors
    ///
    /// When a limit is exceeded.
    pub fn integer(&mut self, value: i64) -> Result<(), InvalidEventData> {
        self.begin_value();
        // Writing to a String cannot fail.
        let _ = write!(self.out, "{value}");
        self.check()
    }

    /// Writes an integer of any size from its decimal digits.
    ///
    /// # Errors
    ///
    /// When a limit is exceeded, or the text is not an integer of JSON.
    pub fn big_integer(&mut self, digits: &str) -> Result<(), InvalidEventData> {
        let unsigned = digits.strip_prefix('-').unwrap_or(digits);
        let is_decimal = unsigned.bytes().all(|byte| byte.is_ascii_digit()) && !unsigned.is_empty();
        if !is_decimal || unsigned.starts_with('0') && unsigned.len() > 1 {
            return Err(InvalidEventData::Unsupported);
        }
        self.room_for(digits.len())?;
        self.literal(digits)
    }

    /// Writes a number; `NaN` and the infinities as null.
    ///
    /// # Errors
    ///
    /// When a limit is exceeded.
    pub fn float(&mut self, value: f64) -> Result<(), InvalidEventData> {
        if !value.is_finite() {
            self.replaced += 1;
            return self.null();
        }
        self.begin_value();
        push_float(&mut self.out, value);
        self.check()
    }

    /// Writes a text.
    ///
    /// # Errors
    ///
    /// When a limit is exceeded.
    pub fn text(&mut self, text: &str) -> Result<(), InvalidEventData> {
        self.room_for(escaped_length(text))?;
        self.begin_value();
        push_json_string(&mut self.out, text);
        self.check()
    }

    /// Writes a text in UTF-8 with surrogates, as Python's `surrogatepass` encodes them. Lone ones stay escapes, other
    /// invalid bytes become U+FFFD.
    ///
    /// # Errors
    ///
    /// When a limit is exceeded.
    pub fn surrogate_text(&mut self, text: &[u8]) -> Result<(), InvalidEventData> {
        if let Ok(text) = std::str::from_utf8(text) {
            return self.text(text);
        }
        self.begin_value();
        self.out.push('"');
        let mut rest = text;
        while let Some(chunk) = rest.utf8_chunks().next() {
            self.room_for(escaped_length(chunk.valid()))?;
            push_escaped(&mut self.out, chunk.valid());
            rest = &rest[chunk.valid().len()..];
            if let [0xed, second @ 0xa0..=0xbf, third @ 0x80..=0xbf, ..] = *rest {
                push_unit(&mut self.out, 0xd000 | u16::from(second & 0x3f) << 6 | u16::from(third & 0x3f));
                rest = &rest[3..];
            } else if !chunk.invalid().is_empty() {
                self.out.push(char::REPLACEMENT_CHARACTER);
                rest = &rest[chunk.invalid().len()..];
            }
        }
        self.out.push('"');
        self.check()
    }

    /// Writes a placeholder, and keeps the bytes as an attachment.
    ///
    /// # Errors
    ///
    /// When a limit is exceeded.
    pub fn bytes(&mut self, bytes: Bytes) -> Result<(), InvalidEventData> {
        self.begin_value();
        let number = self.attachments.len();
        let _ = write!(self.out, r#"{{"_placeholder":true,"num":{number}}}"#);
        self.attach(bytes)
    }

    fn attach(&mut self, bytes: Bytes) -> Result<(), InvalidEventData> {
        self.attachment_bytes = self.attachment_bytes.saturating_add(bytes.len());
        let is_too_large = bytes.len() > self.limits.attachment_bytes;
        if is_too_large || self.attachments.len() >= self.limits.attachments {
            return Err(InvalidEventData::TooLarge);
        }
        self.attachments.push(bytes);
        self.check()
    }

    /// Begins an array.
    ///
    /// # Errors
    ///
    /// When it is too deep, or a limit is exceeded.
    pub fn begin_list(&mut self) -> Result<(), InvalidEventData> {
        self.begin('[')
    }

    /// Ends an array.
    ///
    /// # Errors
    ///
    /// When a limit is exceeded.
    pub fn end_list(&mut self) -> Result<(), InvalidEventData> {
        self.end(']')
    }

    /// Begins an object. Each value in it follows its [`key`](Self::key).
    ///
    /// # Errors
    ///
    /// When it is too deep, or a limit is exceeded.
    pub fn begin_map(&mut self) -> Result<(), InvalidEventData> {
        self.begin('{')
    }

    /// Writes the key of the next value.
    ///
    /// # Errors
    ///
    /// When a limit is exceeded.
    pub fn key(&mut self, key: &str) -> Result<(), InvalidEventData> {
        self.has_mark |= key == "_placeholder";
        self.text(key)?;
        self.end_key();
        Ok(())
    }

    /// Writes the key of the next value, in UTF-8 with surrogates.
    ///
    /// # Errors
    ///
    /// When a limit is exceeded.
    pub fn surrogate_key(&mut self, key: &[u8]) -> Result<(), InvalidEventData> {
        self.surrogate_text(key)?;
        self.end_key();
        Ok(())
    }

    fn end_key(&mut self) {
        self.out.push(':');
        self.needs_comma = false;
    }

    /// Ends an object.
    ///
    /// # Errors
    ///
    /// When a limit is exceeded.
    pub fn end_map(&mut self) -> Result<(), InvalidEventData> {
        self.end('}')
    }

    fn begin(&mut self, bracket: char) -> Result<(), InvalidEventData> {
        if self.depth == MAX_JSON_DEPTH {
            return Err(InvalidJson::TooDeep.into());
        }
        self.begin_value();
        self.depth += 1;
        self.needs_comma = false;
        self.out.push(bracket);
        self.check()
    }

    fn end(&mut self, bracket: char) -> Result<(), InvalidEventData> {
        debug_assert!(self.depth > 1, "the array of the event is ended by `finish`");
        self.depth = self.depth.saturating_sub(1);
        self.needs_comma = true;
        self.out.push(bracket);
        self.check()
    }

    /// Fails before anything of this size is appended.
    fn room_for(&self, bytes: usize) -> Result<(), InvalidEventData> {
        let is_within = self.out.len().saturating_add(bytes) <= self.limits.text_bytes;
        if is_within { Ok(()) } else { Err(InvalidEventData::TooLarge) }
    }

    /// Ends the array.
    ///
    /// # Errors
    ///
    /// When a limit is exceeded, or an object of the value looks like a placeholder and refers to no attachment.
    pub fn finish(mut self) -> Result<EventData, InvalidEventData> {
        debug_assert_eq!(self.depth, 1, "each container is ended");
        self.out.push(']');
        self.check()?;
        if self.has_mark && !self.attachments.is_empty() {
            validate_json(&self.out, Some(self.attachments.len()))?;
        }
        let Self { out: json, attachments, replaced, .. } = self;
        Ok(EventData { json, attachments, replaced })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: MessageLimits =
        MessageLimits { text_bytes: 200, attachments: 2, attachment_bytes: 4, total_bytes: 202 };

    fn from_json(
        name: &str,
        arguments: &[&str],
        attachments: &[&'static [u8]],
    ) -> Result<String, InvalidEventData> {
        let attachments: Vec<_> = attachments.iter().map(|bytes| Bytes::from_static(bytes)).collect();
        let is_binary = !attachments.is_empty();
        let data =
            EventData::from_json(Some(name), arguments.iter().copied(), attachments, is_binary, LIMITS)?;
        Ok(format!("{} {}", data.json(), data.replaced()))
    }

    #[test]
    fn json_of_publishers_is_joined() {
        let joined = from_json(r#" "my \u00e9vent""#, &[r#"{"a": [1, NaN]}"#, "null"], &[]);
        assert_eq!(joined.as_deref(), Ok(r#"["my \u00e9vent",{"a":[1,null]},null] 1"#));
        assert_eq!(from_json("7", &[], &[]).as_deref(), Ok("[7] 0"));
        let placeholder = r#"{"_placeholder": true, "num": 1}"#;
        let compact = Ok(r#"["a",{"_placeholder":true,"num":1}] 0"#);
        assert_eq!(from_json(r#""a""#, &[placeholder], &[b"1", b"2"]).as_deref(), compact);
        let invalid = Err(InvalidEventData::Json(InvalidJson::Placeholder));
        assert_eq!(from_json(r#""a""#, &[placeholder], &[b"1"]), invalid);
        assert_eq!(from_json(r#""a""#, &[placeholder], &[]).as_deref(), compact, "a plain object");
        let lost = EventData::from_json(Some(r#""a""#), [placeholder], vec![], true, LIMITS);
        assert_eq!(lost, Err(InvalidEventData::Json(InvalidJson::Placeholder)));
        let arguments = EventData::from_json(None, ["1", "2"], vec![], false, LIMITS);
        assert_eq!(arguments.map(|data| data.json().to_owned()).as_deref(), Ok("[1,2]"));
    }

    #[test]
    fn invalid_json_and_excess_are_refused() {
        for name in ["null", "[]", "", "true", "-Infinity", "NaN"] {
            assert_eq!(from_json(name, &[], &[]), Err(InvalidEventData::Unsupported));
        }
        for name in [r#""connect""#, r#" "disconn\u0065ct""#] {
            assert_eq!(from_json(name, &[], &[]), Err(InvalidEventData::ReservedName));
        }
        assert_eq!(from_json(r#""a""#, &["1,2"], &[]), Err(InvalidJson::Syntax.into()));
        assert_eq!(from_json(r#""a""#, &[""], &[]), Err(InvalidJson::Syntax.into()));
        let long = format!("\"{}\"", "x".repeat(200));
        assert_eq!(from_json(r#""a""#, &[&long], &[]), Err(InvalidEventData::TooLarge));
        assert_eq!(from_json(r#""a""#, &[], &[b"1", b"2", b"3"]), Err(InvalidEventData::TooLarge));
        assert_eq!(from_json(r#""a""#, &[], &[b"12345"]), Err(InvalidEventData::TooLarge));
        assert_eq!(from_json(r#""a""#, &[&long[9..]], &[]), Err(InvalidJson::Syntax.into()));
    }

    #[test]
    fn no_setting_allows_more_attachments_than_clients_accept() {
        let limits = MessageLimits { text_bytes: 1_000, attachments: 20, ..LIMITS };
        let event = |count| {
            EventData::from_json(Some(r#""a""#), [], vec![Bytes::new(); count], true, limits).map(|_| ())
        };
        assert_eq!((event(10), event(11)), (Ok(()), Err(InvalidEventData::TooLarge)));
    }

    #[test]
    fn lone_surrogates_are_kept_as_escapes() {
        let mut writer = EventDataWriter::new(LIMITS);
        writer.surrogate_text(b"a\xed\xa0\xbd\"\xed\xb0\x80\xc5\xbc\xff\xed\xa0").unwrap();
        writer.surrogate_text("ż".as_bytes()).unwrap();
        writer.begin_map().unwrap();
        writer.surrogate_key(b"\xed\xa0\xbda").unwrap();
        writer.null().unwrap();
        writer.surrogate_key(b"b").unwrap();
        writer.null().unwrap();
        writer.end_map().unwrap();
        let data = writer.finish().unwrap();
        assert_eq!(data.json(), r#"["a\ud83d\"\udc00ż���","ż",{"\ud83da":null,"b":null}]"#);
    }
}
