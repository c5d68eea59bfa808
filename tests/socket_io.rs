//! Recorded publications become the packets that their clients expect.
#![expect(clippy::unwrap_used, reason = "test helpers")]

use std::path::Path;

use base64::{Engine, engine::general_purpose::STANDARD};
use bytes::Bytes;
use serde_json::Value as Json;
use ws4redis::codec::{Value, ValueLimits, msgpack, pickle};
use ws4redis::wire::engine_io::EngineVersion;
use ws4redis::wire::socket_io::{
    EventData, EventDataWriter, InvalidEventData, JsonElements, JsonMembers, MessageLimits, SocketPacket,
    encode, unescape_json,
};

const VALUE_LIMITS: ValueLimits = ValueLimits { bytes: 1 << 20, items: 10_000, depth: 64 };
const LIMITS: MessageLimits =
    MessageLimits { text_bytes: 1 << 20, attachments: 10, attachment_bytes: 1 << 20, total_bytes: 1 << 22 };

/// Returns the payload of each publication that reaches clients, and what they receive.
fn publications(file: &str) -> Vec<(Vec<u8>, Json)> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/socketio").join(file);
    let records: Vec<Json> = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
    let received = records.iter().filter(|record| !record["client_gets"].is_null());
    let publications: Vec<_> = received
        .map(|record| {
            let payload = record["published"][0]["payload_base64"].as_str().unwrap();
            (STANDARD.decode(payload).unwrap(), record["client_gets"].clone())
        })
        .collect();
    assert!(publications.len() > 20, "{file}");
    publications
}

/// Checks the packet of an event, as a client decodes it.
#[track_caller]
fn check(data: &EventData, expected: &Json) {
    let mut text = String::new();
    encode::push_event(&mut text, expected["namespace"].as_str().unwrap(), None, data);
    let mut ascii = String::new();
    encode::push_ascii_packet(&mut ascii, &text);
    assert!(ascii.is_ascii());
    for text in [&text, &ascii] {
        let packet = SocketPacket::decode(EngineVersion::V4, text, LIMITS.attachments).unwrap();
        assert_eq!(packet.attachments, data.attachments().len());
        assert_eq!(packet.namespace, expected["namespace"].as_str().unwrap());
        assert_eq!(packet.event_name().unwrap(), expected["event"].as_str().unwrap());
        let arguments =
            packet.arguments().map(|json| filled(serde_json::from_str(json).unwrap(), data.attachments()));
        assert_eq!(arguments.collect::<Json>(), expected["args"], "{text}");
    }
}

/// Replaces placeholders by their attachments, in the form of the fixtures.
fn filled(json: Json, attachments: &[Bytes]) -> Json {
    match json {
        Json::Array(items) => items.into_iter().map(|item| filled(item, attachments)).collect(),
        Json::Object(members)
            if !attachments.is_empty() && members.get("_placeholder") == Some(&Json::Bool(true)) =>
        {
            let number = usize::try_from(members["num"].as_u64().unwrap()).unwrap();
            serde_json::json!({ "$bytes": STANDARD.encode(&attachments[number]) })
        }
        Json::Object(members) => {
            Json::Object(members.into_iter().map(|(key, value)| (key, filled(value, attachments))).collect())
        }
        scalar => scalar,
    }
}

/// Writes a value of a codec without an intermediate tree.
fn write(writer: &mut EventDataWriter, value: &Value) -> Result<(), InvalidEventData> {
    match value {
        Value::Null => writer.null(),
        Value::Bool(value) => writer.bool(*value),
        Value::Integer(number) => writer.integer(*number),
        Value::BigInteger(digits) => writer.big_integer(digits),
        Value::Float(number) => writer.float(*number),
        Value::Text(text) => writer.text(text),
        Value::Surrogates(text) => writer.surrogate_text(text),
        Value::Bytes(bytes) => writer.bytes(bytes.clone().into()),
        Value::List(items) | Value::Tuple(items) => {
            writer.begin_list()?;
            items.iter().try_for_each(|item| write(writer, item))?;
            writer.end_list()
        }
        Value::Map(pairs) => {
            writer.begin_map()?;
            for (key, value) in pairs {
                match (key, value) {
                    (_, Value::Extension(0, data)) if data == &[0] => continue,
                    (Value::Text(key), _) => writer.key(key)?,
                    (Value::Integer(key), _) => writer.key(&key.to_string())?,
                    (Value::Bool(key), _) => writer.key(if *key { "true" } else { "false" })?,
                    (Value::Null, _) => writer.key("null")?,
                    other => panic!("{other:?}"),
                }
                write(writer, value)?;
            }
            writer.end_map()
        }
        Value::Extension(..) => writer.text("1970-01-01T00:00:00.000Z"),
    }
}

#[test]
fn json_of_python_socketio_becomes_packets() {
    for (payload, expected) in publications("python-socketio-5.18.1.json") {
        let message = std::str::from_utf8(&payload).unwrap();
        let member = |name: &str| {
            let found = JsonMembers::new(message).unwrap().map(Result::unwrap);
            found
                .filter(|(key, _)| unescape_json(key).unwrap() == name)
                .map(|(_, value)| value)
                .last()
                .unwrap()
        };
        let elements = |json| JsonElements::new(json).unwrap().map(Result::unwrap).collect::<Vec<_>>();
        let (data, is_binary) = (elements(member("data")), member("binary") == "true");
        let decoded = |json: &&str| STANDARD.decode(&*unescape_json(json).unwrap()).unwrap().into();
        let (arguments, attachments) = if is_binary {
            (elements(data[0]), data[1..].iter().map(decoded).collect())
        } else {
            (if data == ["null"] { vec![] } else { data }, vec![])
        };
        let data = EventData::from_json(Some(member("event")), arguments, attachments, is_binary, LIMITS);
        check(&data.unwrap(), &expected);
    }
}

#[test]
fn pickles_of_python_socketio_become_packets() {
    for (payload, expected) in publications("python-socketio-5.13.0.json") {
        let message = pickle::read_value(&payload, VALUE_LIMITS).unwrap();
        let mut writer = EventDataWriter::new(LIMITS);
        writer.text(message.get("event").unwrap().as_str().unwrap()).unwrap();
        match message.get("data").unwrap() {
            Value::Null => {}
            Value::Tuple(arguments) => {
                arguments.iter().try_for_each(|value| write(&mut writer, value)).unwrap();
            }
            value => write(&mut writer, value).unwrap(),
        }
        check(&writer.finish().unwrap(), &expected);
    }
}

#[test]
fn msgpack_of_the_redis_emitter_becomes_packets() {
    for (payload, expected) in publications("js-redis-emitter.json") {
        // One record uses JSON in place of msgpack.
        if payload[0] == b'[' {
            continue;
        }
        let Value::List(parts) = msgpack::read_value(&payload, VALUE_LIMITS).unwrap() else { panic!() };
        let Some(Value::List(data)) = parts[1].get("data") else { panic!("{parts:?}") };
        let mut writer = EventDataWriter::new(LIMITS);
        data.iter().try_for_each(|value| write(&mut writer, value)).unwrap();
        check(&writer.finish().unwrap(), &expected);
    }
}
