//! A tree of values with binary leaves, for publishers whose format is not JSON.

use std::borrow::Cow;

use bytes::Bytes;

use super::attachments::MessageLimits;
use super::data::{EventData, EventDataWriter, InvalidEventData};
use super::packet::is_reserved_event;
use super::strings::push_float;

/// A value with binary leaves, as a reader of pickle or `MessagePack` produces it.
#[derive(Debug, Clone, PartialEq)]
pub enum EventValue<'a> {
    /// Null.
    Null,
    /// A boolean.
    Bool(bool),
    /// An integer of 64 bits.
    Integer(i64),
    /// The decimal digits of a larger integer, with a minus sign if it is negative.
    BigInteger(Cow<'a, str>),
    /// A number. `NaN` and the infinities become null.
    Float(f64),
    /// A text.
    Text(Cow<'a, str>),
    /// A text with lone surrogates, as Python's `surrogatepass` encodes it.
    Surrogates(Cow<'a, [u8]>),
    /// A binary leaf: becomes an attachment.
    Bytes(Bytes),
    /// An array.
    List(Vec<Self>),
    /// An object. Keys become text as Python's `json.dumps` makes them.
    Map(Vec<(Self, Self)>),
}

impl EventValue<'_> {
    /// Recursion is bounded, because the writer refuses deep nesting.
    fn write(&self, writer: &mut EventDataWriter) -> Result<(), InvalidEventData> {
        match self {
            Self::Null => writer.null(),
            Self::Bool(value) => writer.bool(*value),
            Self::Integer(value) => writer.integer(*value),
            Self::BigInteger(digits) => writer.big_integer(digits),
            Self::Float(value) => writer.float(*value),
            Self::Text(text) => writer.text(text),
            Self::Surrogates(text) => writer.surrogate_text(text),
            Self::Bytes(bytes) => writer.bytes(bytes.clone()),
            Self::List(values) => {
                writer.begin_list()?;
                values.iter().try_for_each(|value| value.write(writer))?;
                writer.end_list()
            }
            Self::Map(pairs) => {
                writer.begin_map()?;
                for (key, value) in pairs {
                    match key {
                        Self::Text(key) => writer.key(key)?,
                        Self::Null => writer.key("null")?,
                        Self::Bool(key) => writer.key(if *key { "true" } else { "false" })?,
                        Self::Integer(key) => writer.key(&key.to_string())?,
                        Self::BigInteger(digits) => writer.key(digits)?,
                        Self::Float(key) => writer.key(&float_key(*key))?,
                        Self::Surrogates(key) => writer.surrogate_key(key)?,
                        Self::Bytes(_) | Self::List(_) | Self::Map(_) => {
                            return Err(InvalidEventData::Unsupported);
                        }
                    }
                    value.write(writer)?;
                }
                writer.end_map()
            }
        }
    }
}

fn float_key(key: f64) -> Cow<'static, str> {
    if key.is_nan() {
        return "NaN".into();
    }
    if key.is_infinite() {
        return if key > 0.0 { "Infinity".into() } else { "-Infinity".into() };
    }
    let mut text = String::new();
    push_float(&mut text, key);
    text.into()
}

/// Encodes the values of an event, or of an acknowledgement, which has no name.
///
/// # Errors
///
/// When a value has no JSON, the name is reserved, or a limit is exceeded.
pub fn encode_values(
    name: Option<&str>,
    arguments: &[EventValue<'_>],
    limits: MessageLimits,
) -> Result<EventData, InvalidEventData> {
    let mut writer = EventDataWriter::new(limits);
    if let Some(name) = name {
        if is_reserved_event(name) {
            return Err(InvalidEventData::ReservedName);
        }
        writer.text(name)?;
    }
    arguments.iter().try_for_each(|value| value.write(&mut writer))?;
    writer.finish()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::EventValue::{BigInteger, Bool, Float, Integer, List, Map, Null, Text};
    use super::*;
    use crate::wire::socket_io::{InvalidJson, SocketPacket, encode, validate_json};

    const LIMITS: MessageLimits =
        MessageLimits { text_bytes: 2_000, attachments: 3, attachment_bytes: 100, total_bytes: 2_050 };

    fn text(text: &str) -> EventValue<'_> {
        Text(text.into())
    }

    fn bytes(bytes: &'static [u8]) -> EventValue<'static> {
        EventValue::Bytes(Bytes::from_static(bytes))
    }

    #[track_caller]
    fn check(arguments: &[EventValue<'_>], json: &str, attachments: &[&[u8]]) {
        let data = encode_values(Some("my event"), arguments, LIMITS).unwrap();
        assert_eq!(data.json(), json);
        assert_eq!(data.attachments(), attachments);
    }

    /// The arguments of the recorded publications, as their clients get them.
    #[test]
    fn values_become_json_and_attachments() {
        check(&[], r#"["my event"]"#, &[]);
        check(
            &[Map(vec![(text("foo"), text("bar")), (text("n"), Integer(1))])],
            r#"["my event",{"foo":"bar","n":1}]"#,
            &[],
        );
        check(&[bytes(&[0, 1, 255])], r#"["my event",{"_placeholder":true,"num":0}]"#, &[&[0, 1, 255]]);
        check(
            &[Map(vec![
                (text("name"), text("f.png")),
                (text("body"), bytes(b"\x89PNG")),
                (text("list"), List(vec![bytes(&[0]), Integer(1)])),
            ])],
            r#"["my event",{"name":"f.png","body":{"_placeholder":true,"num":0},"list":[{"_placeholder":true,"num":1},1]}]"#,
            &[b"\x89PNG", &[0]],
        );
        check(
            &[
                Null,
                Bool(true),
                Float(1.5),
                Integer(-7),
                BigInteger("36893488147419103232".into()),
                List(vec![]),
            ],
            r#"["my event",null,true,1.5,-7,36893488147419103232,[]]"#,
            &[],
        );
        check(&[text("Grüße 🎉\n\"\u{1}")], r#"["my event","Grüße 🎉\n\"\u0001"]"#, &[]);
    }

    #[test]
    fn keys_become_text_as_in_python() {
        let keys =
            [Integer(1), Bool(true), Null, Float(1.0), Float(f64::NAN), BigInteger("99".into()), text("é")];
        let map = Map(keys.into_iter().map(|key| (key, Integer(0))).collect());
        check(&[map], r#"["my event",{"1":0,"true":0,"null":0,"1.0":0,"NaN":0,"99":0,"é":0}]"#, &[]);
        for key in [List(vec![]), bytes(b"a")] {
            let map = Map(vec![(key, Null)]);
            assert_eq!(encode_values(None, &[map], LIMITS), Err(InvalidEventData::Unsupported));
        }
        for digits in ["", "-", "01", "1.0", "0x1"] {
            let number = BigInteger(digits.into());
            assert_eq!(encode_values(None, &[number], LIMITS), Err(InvalidEventData::Unsupported));
        }
    }

    #[test]
    fn numbers_that_json_has_not_are_null_and_counted() {
        let data = encode_values(None, &[Float(f64::NAN), Float(f64::INFINITY), Float(0.5)], LIMITS).unwrap();
        assert_eq!((data.json(), data.replaced()), ("[null,null,0.5]", 2));
    }

    #[test]
    fn a_map_like_a_placeholder_must_not_name_a_missing_attachment() {
        let forged = |number| Map(vec![(text("_placeholder"), Bool(true)), (text("num"), Integer(number))]);
        assert!(encode_values(None, &[forged(7)], LIMITS).is_ok(), "without attachments it is plain data");
        assert!(encode_values(None, &[forged(0), bytes(b"a")], LIMITS).is_ok());
        let refused = Err(InvalidJson::Placeholder.into());
        assert_eq!(encode_values(None, &[forged(1), bytes(b"a")], LIMITS), refused);
    }

    #[test]
    fn reserved_names_are_refused() {
        let event = |name| encode_values(Some(name), &[], LIMITS).map(|_| ());
        assert_eq!(event("disconnect"), Err(InvalidEventData::ReservedName));
        assert_eq!(event("disconnected"), Ok(()));
    }

    #[test]
    fn limits_hold() {
        let nested = |depth: usize| (0..depth).fold(Null, |value, _| List(vec![value]));
        assert!(encode_values(None, &[nested(63)], LIMITS).is_ok());
        assert_eq!(encode_values(None, &[nested(64)], LIMITS), Err(InvalidJson::TooDeep.into()));
        for arguments in [
            vec![text(&"x".repeat(2_000))],
            vec![text(&"\u{1}".repeat(400))],
            vec![Null; 400],
            vec![bytes(b""); 4],
            vec![bytes(&[0; 101])],
            vec![text(&"x".repeat(1_960)), bytes(&[0; 100])],
        ] {
            assert_eq!(encode_values(None, &arguments, LIMITS), Err(InvalidEventData::TooLarge));
        }
    }

    fn any_value() -> impl Strategy<Value = EventValue<'static>> {
        let leaf = prop_oneof![
            Just(Null),
            any::<bool>().prop_map(Bool),
            any::<i64>().prop_map(Integer),
            any::<f64>().prop_map(Float),
            ".{0,8}".prop_map(|text| Text(text.into())),
            prop::sample::select(vec!["_placeholder", "num"]).prop_map(|text| Text(text.into())),
            prop::collection::vec(any::<u8>(), 0..8).prop_map(|bytes| EventValue::Bytes(bytes.into())),
        ];
        leaf.prop_recursive(4, 20, 4, |value| {
            let pair = (value.clone(), value.clone());
            prop_oneof![
                prop::collection::vec(value, 0..4).prop_map(List),
                prop::collection::vec(pair, 0..4).prop_map(Map),
            ]
        })
    }

    proptest! {
        /// What is encoded is a packet that clients accept, within the limits.
        #[test]
        fn what_is_encoded_is_decoded(arguments in prop::collection::vec(any_value(), 0..4), id: Option<u32>) {
            let Ok(data) = encode_values(Some("x"), &arguments, LIMITS) else { return Ok(()) };
            let count = data.attachments().len();
            prop_assert!(data.json().len() <= LIMITS.text_bytes && count <= LIMITS.attachments);
            prop_assert_eq!(validate_json(data.json(), (count > 0).then_some(count)), Ok(()));
            let mut packet = String::new();
            encode::push_event(&mut packet, "/chat", id.map(u64::from), &data);
            let decoded = SocketPacket::decode(crate::wire::engine_io::EngineVersion::V4, &packet, 3).unwrap();
            prop_assert_eq!(decoded.arguments().count(), arguments.len());
            prop_assert_eq!((decoded.attachments, decoded.data), (count, data.json()));
        }
    }
}
