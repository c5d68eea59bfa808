//! Values that publishers of Socket.IO messages write to Redis, as Python and JavaScript wrote them.
#![expect(clippy::unwrap_used, reason = "test helpers")]

use std::path::Path;

use base64::{Engine, engine::general_purpose::STANDARD};
use serde_json::Value as Json;
use ws4redis::codec::{DecodeError, Value, ValueLimits, json, msgpack, pickle};

const LIMITS: ValueLimits = ValueLimits { bytes: 1 << 20, items: 10_000, depth: 64 };

/// A record of a file: the publication, and what it means.
struct Publication {
    name: String,
    encoding: String,
    payload: Vec<u8>,
    /// The payload as Python shows it, if it comes from Python.
    repr: Option<String>,
    /// What a client receives.
    expected: Json,
}

fn publications(file: &str) -> Vec<Publication> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/socketio").join(file);
    let records: Vec<Json> = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
    let publications = records.iter().flat_map(|record| {
        record["published"].as_array().unwrap().iter().map(|published| Publication {
            name: record["name"].as_str().unwrap().to_owned(),
            encoding: published["encoding"].as_str().unwrap().to_owned(),
            payload: STANDARD.decode(published["payload_base64"].as_str().unwrap()).unwrap(),
            repr: published["decoded_repr"].as_str().map(str::to_owned),
            expected: record["client_gets"].clone(),
        })
    });
    publications.collect()
}

/// Shows a value as Python does; a `bytearray` shows as the bytes that it is read as.
fn repr(value: &Value) -> String {
    let list = |items: &[Value]| items.iter().map(repr).collect::<Vec<_>>().join(", ");
    match value {
        Value::Null => "None".to_owned(),
        Value::Bool(true) => "True".to_owned(),
        Value::Bool(false) => "False".to_owned(),
        Value::Integer(number) => number.to_string(),
        Value::BigInteger(digits) => digits.clone(),
        Value::Float(number) if number.is_nan() => "nan".to_owned(),
        Value::Float(number) => number.to_string(),
        Value::Text(text) => format!("'{text}'"),
        Value::Surrogates(text) => format!("'{}'", text.escape_ascii()),
        Value::Bytes(bytes) => format!("b'{}'", bytes.escape_ascii()),
        Value::List(items) => format!("[{}]", list(items)),
        Value::Tuple(items) if items.len() == 1 => format!("({},)", list(items)),
        Value::Tuple(items) => format!("({})", list(items)),
        Value::Map(pairs) => {
            let pairs = pairs.iter().map(|(key, value)| format!("{}: {}", repr(key), repr(value)));
            format!("{{{}}}", pairs.collect::<Vec<_>>().join(", "))
        }
        Value::Extension(kind, data) => format!("ext({kind}, {data:?})"),
    }
}

/// Shows a value as the fixtures show what a client receives.
fn as_received(value: &Value) -> Json {
    match value {
        Value::Null => Json::Null,
        Value::Bool(value) => (*value).into(),
        Value::Integer(number) => (*number).into(),
        Value::Float(number) => (*number).into(),
        Value::Text(text) => text.as_str().into(),
        Value::Bytes(bytes) => serde_json::json!({ "$bytes": STANDARD.encode(bytes) }),
        Value::List(items) => items.iter().map(as_received).collect(),
        Value::Map(pairs) => {
            // JavaScript's `undefined` is an extension of one byte, and JSON leaves such members out.
            let pairs = pairs.iter().filter(|(_, value)| *value != Value::Extension(0, vec![0]));
            let pairs = pairs.map(|(key, value)| (key.as_str().unwrap().to_owned(), as_received(value)));
            Json::Object(pairs.collect())
        }
        // A date, of type -1 or 0 by the version of the encoder: the epoch in all recordings.
        Value::Extension(-1 | 0, date) if date.iter().all(|byte| *byte == 0) => {
            "1970-01-01T00:00:00.000Z".into()
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn pickles_of_python_socketio_become_values() {
    let mut read = 0;
    for publication in publications("python-socketio-5.13.0.json") {
        assert_eq!(publication.encoding, "pickle");
        let value = pickle::read_value(&publication.payload, LIMITS);
        if publication.name == "emit_datetime" {
            assert_eq!(value, Err(DecodeError::Unsupported));
            continue;
        }
        let expected = publication.repr.unwrap().replace("bytearray(b'\\x01\\x02')", "b'\\x01\\x02'");
        assert_eq!(repr(&value.unwrap()), expected, "{}", publication.name);
        read += 1;
        for end in 0..publication.payload.len() {
            let cut = pickle::read_value(&publication.payload[..end], LIMITS);
            assert_eq!(cut, Err(DecodeError::Damaged), "{} cut at {end}", publication.name);
        }
    }
    assert!(read > 50, "{read}");
}

#[test]
fn json_of_python_socketio_becomes_values() {
    let mut read = 0;
    for publication in publications("python-socketio-5.18.1.json") {
        assert_eq!(publication.encoding, "json");
        let value = json::read_value(&publication.payload, LIMITS).unwrap();
        let expected = publication.repr.unwrap().replace(": nan", ": None").replace(": inf", ": None");
        assert_eq!(repr(&value), expected, "{}", publication.name);
        assert!(value.get("method").and_then(Value::as_str).is_some());
        read += 1;
    }
    assert!(read > 50, "{read}");
}

#[test]
fn msgpack_of_the_redis_emitter_becomes_values() {
    let mut read = 0;
    for publication in publications("js-redis-emitter.json") {
        let read_value =
            if publication.encoding == "msgpack" { msgpack::read_value } else { json::read_value };
        let value = read_value(&publication.payload, LIMITS).unwrap();
        if publication.expected.is_null() {
            continue;
        }
        let Value::List(parts) = value else { panic!("{value:?}") };
        let Some(Value::List(data)) = parts[1].get("data") else { panic!("{parts:?}") };
        assert_eq!(data[0].as_str(), publication.expected["event"].as_str());
        let arguments: Json = data[1..].iter().map(as_received).collect();
        assert_eq!(arguments, publication.expected["args"], "{}", publication.name);
        read += 1;
    }
    assert!(read > 20, "{read}");
}
