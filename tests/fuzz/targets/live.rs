//! Requests of version 2, and messages as its objects: each is JSON that gives the payload back.
#![no_main]

use std::sync::Arc;

use bytes::BytesMut;
use libfuzzer_sys::fuzz_target;
use ws4redis::codec::{Value, ValueLimits, json};
use ws4redis::dialects::live::is_request;
use ws4redis::wire::Form;
use ws4redis::wire::form::{Encodings, store, stored};
use ws4redis::wire::live::LiveNames;

fuzz_target!(|input: &[u8]| {
    let limits = ValueLimits { bytes: 1 << 20, items: 100, depth: 4 };
    if is_request(input) == Some(true) {
        assert!(json::read_value(input, ValueLimits { items: 4_096, depth: 16, ..limits }).is_ok());
    }
    let Some(end) = input.iter().position(|byte| *byte == 0) else { return };
    let Ok(channel) = std::str::from_utf8(&input[..end]) else { return };
    let payload = &input[end + 1..];
    let mut bytes = BytesMut::new();
    store(&mut bytes, payload);
    let (bytes, encodings) = (bytes.freeze(), Encodings::default());
    encodings.set_label(&Arc::new(LiveNames::default().label(channel)), false);
    let frames = encodings.get(Form::Objects, &bytes, 1);
    let (_, object) = stored(frames).next().expect("one message is one object");
    let object = json::read_value(&frames[object], limits).expect("an object is JSON");
    if let Some(text) = object.get("d").and_then(Value::as_str) {
        assert!(payload.ends_with(text.as_bytes()));
    } else {
        assert!(object.get("b").is_some());
    }
});
